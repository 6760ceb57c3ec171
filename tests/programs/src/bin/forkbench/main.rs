//! What fork and what follows it cost, one line a figure: `measure NAME SIZE VALUE`, SIZE in bytes (0: none), VALUE in
//! nanoseconds of `CLOCK_MONOTONIC` unless the name says otherwise. Under QEMU's `-icount shift=0` a nanosecond is an
//! instruction.
//!
//! Arguments say what is measured: `dense=400K,1M`, `sparse=1G` (the first page of each 2 MiB), `scattered=1G` (one page
//! somewhere in each 2 MiB), `crowd=10x256M` (ten processes read one shared file), `huge=10x1G` (the same of huge pages)
//! and `small` (a small process forks, execs). `exit` ends at once: what the exec case runs. What this kernel cannot do is
//! a line `hole NAME SIZE WHY`.
//! `aged`, as the first word, uses all free memory once and then runs the rest as a child: a kernel that knows memory to
//! be zero since boot then has to clear it like any other.
//!
//! As PID 1 (a Linux kernel whose initramfs has this file as `/init`) it mounts /proc, runs itself as a child, and
//! switches the machine off.

mod crowd;
mod start;

use ptshare_programs::memory::{PAGE, RW, Region, TABLE};
use ptshare_programs::process::{self, wait};
use ptshare_programs::{check, init, now_ns};

/// Where the measured memory lies: under an entry of the root of its own, so that its tables are its own on every kernel.
const BASE: usize = 0x6000_0000_0000;
/// Each figure is the least of this many attempts.
const ROUNDS: usize = 3;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let (own_path, wanted) =
        arguments.split_first().map_or(("", &[][..]), |(first, rest)| (first.as_str(), rest));
    if wanted.first().is_some_and(|word| word == "exit") {
        process::leave(0);
    }
    if std::process::id() == 1 {
        println!("measure boot 0 {}", now_ns());
        init::run("forkbench", own_path, wanted);
    }
    if let Some(("aged", rest)) = wanted.split_first().map(|(first, rest)| (first.as_str(), rest)) {
        start::aged(own_path, rest);
    }
    for word in wanted {
        let (what, sizes) = word.split_once('=').unwrap_or((word, ""));
        let sizes = sizes.split(',').filter_map(bytes);
        match what {
            "small" => small(own_path),
            "dense" => sizes.for_each(|size| private(size, Spread::Every)),
            "sparse" => sizes.for_each(|size| private(size, Spread::First)),
            "scattered" => sizes.for_each(|size| private(size, Spread::Somewhere)),
            "crowd" => crowds(word).for_each(|(n, size)| crowd::of_file(n, size)),
            "huge" => crowds(word).for_each(|(n, size)| crowd::of_huge_pages(n, size)),
            _ => check!(false, "`{word}` is none of small, dense=, sparse=, scattered=, crowd=, huge=, exit"),
        }
    }
    println!("forkbench: done");
}

/// `WHAT=10x256M,100x64M`: numbers of processes and sizes.
fn crowds(word: &str) -> impl Iterator<Item = (usize, usize)> {
    let list = word.split_once('=').map_or("", |(_, list)| list);
    list.split(',').filter_map(|one| {
        let (n, size) = one.split_once('x')?;
        Some((n.parse().ok()?, bytes(size)?))
    })
}

fn bytes(text: &str) -> Option<usize> {
    let at = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = text.split_at(at);
    let shift = match unit {
        "" => 0,
        "K" => 10,
        "M" => 20,
        "G" => 30,
        _ => return None,
    };
    digits.parse::<usize>().ok().map(|n| n << shift)
}

fn report(prefix: &str, name: &str, size: usize, value: u64) {
    println!("measure {prefix}{name} {size} {value}");
}

/// What a call takes, ns.
fn time(body: impl FnOnce()) -> u64 {
    let start = now_ns();
    body();
    now_ns() - start
}

fn mapping(size: usize, kind: i32) -> Region {
    let flags = kind | libc::MAP_ANONYMOUS | libc::MAP_FIXED | libc::MAP_NORESERVE;
    // SAFETY: nothing else of this program lies there.
    let base = unsafe { libc::mmap(BASE as *mut _, size, RW, flags, -1, 0) };
    check!(base as usize == BASE, "mmap of {size} bytes failed: {}", ptshare_programs::errno());
    // SAFETY: the advice changes no content. A kernel without huge pages refuses it, which is as good.
    unsafe { libc::madvise(base, size, libc::MADV_NOHUGEPAGE) };
    Region { base: BASE, len: size }
}

/// Which pages of a memory are in use.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Spread {
    /// All.
    Every,
    /// The first of each 2 MiB.
    First,
    /// One of each 2 MiB, at a place that looks random and is the same every time.
    Somewhere,
}

impl Spread {
    /// The n-th page in use, as an offset.
    fn page(self, n: usize) -> usize {
        match self {
            Spread::Every => n * PAGE,
            Spread::First => n * TABLE,
            // The upper bits of a product with 2^64 divided by the golden ratio (Knuth, volume 3, section 6.4).
            Spread::Somewhere => n * TABLE + (n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 55) * PAGE,
        }
    }

    fn prefix(self) -> &'static str {
        match self {
            Spread::Every => "",
            Spread::First => "sparse_",
            Spread::Somewhere => "scattered_",
        }
    }
}

/// Private memory of `size` bytes, of which some pages are in use.
fn private(size: usize, spread: Spread) {
    let prefix = spread.prefix();
    let region = mapping(size, libc::MAP_PRIVATE);
    let touches = size.div_ceil(if spread == Spread::Every { PAGE } else { TABLE });
    let touch = time(|| (0..touches).for_each(|n| region.set(spread.page(n), 1)));
    report(prefix, "touch", size, touch / touches as u64);

    let pipe = Pipe::new();
    let cold_at = spread.page(touches / 2);
    let warm_at = if spread == Spread::Every { cold_at + PAGE } else { cold_at };
    // Below the next PTE page, and the same tables above it.
    let near_at = if spread == Spread::Every { cold_at + TABLE } else { spread.page(touches / 2 + 1) };
    let has_near = near_at < size;
    let near = |value| if has_near { time(|| region.set(near_at, value)) } else { u64::MAX };
    let mut best = [u64::MAX; 8];
    let mut least = |at: usize, value: u64| best[at] = best[at].min(value);
    for _ in 0..ROUNDS {
        // The parent writes, the child only exits.
        let start = now_ns();
        let child = process::fork();
        if child == 0 {
            process::leave(0);
        }
        least(0, now_ns() - start);
        least(1, time(|| region.set(cold_at, 2)));
        least(2, time(|| region.set(warm_at, 2)));
        least(3, near(2));
        wait(child);
        // The child writes, the parent only waits.
        let child = process::fork();
        if child == 0 {
            let cold = time(|| region.set(cold_at, 3));
            let warm = time(|| region.set(warm_at, 3));
            pipe.send(&[cold, warm, near(3)]);
            process::leave(0);
        }
        wait(child);
        let [cold, warm, near] = pipe.receive();
        least(4, cold);
        least(5, warm);
        least(6, near);
        // Neither writes.
        let child = process::fork();
        if child == 0 {
            process::leave(0);
        }
        least(
            7,
            time(|| {
                wait(child);
            }),
        );
    }
    let names = [
        "fork",
        "parent_cold",
        "parent_warm",
        "parent_near",
        "child_cold",
        "child_warm",
        "child_near",
        "exit_wait",
    ];
    for (name, value) in names.iter().zip(best) {
        // A sparse region has one page a table: its second write meets a table of its own again.
        if value != u64::MAX && (prefix.is_empty() || !name.ends_with("warm")) {
            report(prefix, name, size, value);
        }
    }
    report(prefix, "vmpte_kb", size, vmpte_kb());
    report(prefix, "munmap", size, time(|| region.unmap()));
}

/// The small process that this program is by itself.
fn small(own_path: &str) {
    let path = std::ffi::CString::new(own_path).unwrap_or_default();
    let argv = [path.as_ptr(), c"exit".as_ptr(), std::ptr::null()];
    let environment = [std::ptr::null()];
    let [mut clock, mut call, mut forked, mut executed, mut loops] = [u64::MAX; 5];
    for _ in 0..ROUNDS {
        clock = clock.min(time(|| ()));
        // SAFETY: no argument.
        call = call.min(time(|| unsafe {
            libc::syscall(libc::SYS_getppid);
        }));
        forked = forked.min(time(|| {
            process::in_child(|| 0);
        }));
        executed = executed.min(time(|| {
            let child = process::fork();
            if child == 0 {
                // SAFETY: path, arguments and environment are live and end with NUL and null.
                unsafe { libc::execve(path.as_ptr(), argv.as_ptr(), environment.as_ptr()) };
                process::leave(1);
            }
            check!(wait(child).code() == Some(0), "{own_path} cannot be executed");
        }));
        loops = loops.min(time(spin));
    }
    for (name, value) in [
        ("clock", clock),
        ("syscall", call),
        ("small_fork_exit", forked),
        ("small_fork_exec", executed),
        ("spin_100k", loops),
    ] {
        report("", name, 0, value);
    }
}

/// A hundred thousand instructions, and a few: whether a kernel's clock counts them.
fn spin() {
    // SAFETY: touches one register.
    unsafe {
        std::arch::asm!("2:", "dec {n}", "jnz 2b", n = inout(reg) 50_000u64 => _, options(nomem, nostack))
    };
}

/// What the kernel says of this process's page tables, kB; 0 when it says nothing.
fn vmpte_kb() -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("VmPTE:"));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

/// Carries three numbers from a child to its parent.
struct Pipe([i32; 2]);

impl Pipe {
    fn new() -> Pipe {
        let mut ends = [0; 2];
        // SAFETY: `ends` has room for two descriptors.
        check!(unsafe { libc::pipe(ends.as_mut_ptr()) } == 0, "pipe failed");
        Pipe(ends)
    }

    fn send(&self, values: &[u64; 3]) {
        // SAFETY: the numbers are readable for their whole size.
        let n = unsafe { libc::write(self.0[1], values.as_ptr().cast(), size_of_val(values)) };
        check!(n == 24, "a pipe took {n} bytes");
    }

    fn receive(&self) -> [u64; 3] {
        let mut values = [0u64; 3];
        // SAFETY: the numbers are writable for their whole size, and every bit pattern is one.
        let n = unsafe { libc::read(self.0[0], values.as_mut_ptr().cast(), size_of_val(&values)) };
        check!(n == 24, "a pipe gave {n} bytes");
        values
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        for end in self.0 {
            // SAFETY: this value owns both descriptors.
            unsafe { libc::close(end) };
        }
    }
}
