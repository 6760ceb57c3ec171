//! Passes wild pointers to system calls: named ones, whose errors are compared, and in a guest all that it implements.

use ptshare_programs::memory::{PAGE, Region};
use ptshare_programs::{check, errno, errno_name, judge, now_ns, process};

/// Where a wild pointer may point.
const WILD: &[usize] = &[
    0x10,
    0x1234_5678_9008,
    0x8000_0000_0000_0000,
    0xffff_8880_0010_0000,
    0xffff_ffff_8010_0000,
    usize::MAX - 7,
];

fn call(number: i64, a: [usize; 6]) -> String {
    // SAFETY: the pointers are wild on purpose: no memory of this program lies there.
    let result = unsafe { libc::syscall(number, a[0], a[1], a[2], a[3], a[4], a[5]) };
    if result < 0 { errno_name(errno()) } else { "accepted".into() }
}

fn named(p: usize) {
    let mut ends = [0; 2];
    // SAFETY: room for two descriptors.
    unsafe { libc::pipe(ends.as_mut_ptr()) };
    let (r, w) = (ends[0] as usize, ends[1] as usize);
    // SAFETY: the byte is readable.
    unsafe { libc::write(ends[1], [0u8; 8].as_ptr().cast(), 8) };
    let here = usize::MAX - 99; // AT_FDCWD is -100
    let calls: &[(&str, i64, [usize; 6])] = &[
        ("read", libc::SYS_read, [r, p, 4, 0, 0, 0]),
        ("write", libc::SYS_write, [w, p, 4, 0, 0, 0]),
        ("open", libc::SYS_open, [p, 0, 0, 0, 0, 0]),
        ("openat", libc::SYS_openat, [here, p, 0, 0, 0, 0]),
        ("stat", libc::SYS_stat, [c"/".as_ptr() as usize, p, 0, 0, 0, 0]),
        ("stat path", libc::SYS_stat, [p, p, 0, 0, 0, 0]),
        ("fstat", libc::SYS_fstat, [r, p, 0, 0, 0, 0]),
        ("access", libc::SYS_access, [p, 0, 0, 0, 0, 0]),
        ("poll", libc::SYS_poll, [p, 1, 0, 0, 0, 0]),
        ("readv", libc::SYS_readv, [r, p, 1, 0, 0, 0]),
        ("writev", libc::SYS_writev, [w, p, 1, 0, 0, 0]),
        ("pipe", libc::SYS_pipe, [p, 0, 0, 0, 0, 0]),
        ("nanosleep", libc::SYS_nanosleep, [p, 0, 0, 0, 0, 0]),
        ("clock_gettime", libc::SYS_clock_gettime, [libc::CLOCK_MONOTONIC as usize, p, 0, 0, 0, 0]),
        ("uname", libc::SYS_uname, [p, 0, 0, 0, 0, 0]),
        ("getcwd", libc::SYS_getcwd, [p, 64, 0, 0, 0, 0]),
        ("chdir", libc::SYS_chdir, [p, 0, 0, 0, 0, 0]),
        ("mkdir", libc::SYS_mkdir, [p, 0o755, 0, 0, 0, 0]),
        ("unlink", libc::SYS_unlink, [p, 0, 0, 0, 0, 0]),
        ("rename", libc::SYS_rename, [p, p, 0, 0, 0, 0]),
        ("readlink", libc::SYS_readlink, [p, p, 16, 0, 0, 0]),
        ("execve", libc::SYS_execve, [p, 0, 0, 0, 0, 0]),
        ("execve arguments", libc::SYS_execve, [c"/proc/self/exe".as_ptr() as usize, p, 0, 0, 0, 0]),
        ("rt_sigaction", libc::SYS_rt_sigaction, [libc::SIGUSR1 as usize, p, 0, 8, 0, 0]),
        ("rt_sigprocmask", libc::SYS_rt_sigprocmask, [0, p, 0, 8, 0, 0]),
        ("sigaltstack", libc::SYS_sigaltstack, [p, 0, 0, 0, 0, 0]),
        ("getrlimit", libc::SYS_getrlimit, [0, p, 0, 0, 0, 0]),
        ("getrusage", libc::SYS_getrusage, [0, p, 0, 0, 0, 0]),
        ("sysinfo", libc::SYS_sysinfo, [p, 0, 0, 0, 0, 0]),
        ("times", libc::SYS_times, [p, 0, 0, 0, 0, 0]),
        ("getrandom", libc::SYS_getrandom, [p, 16, 0, 0, 0, 0]),
        ("mincore", libc::SYS_mincore, [named as *const () as usize & !(PAGE - 1), PAGE, p, 0, 0, 0]),
        ("futex", libc::SYS_futex, [p & !3, libc::FUTEX_WAIT as usize, 0, 0, 0, 0]),
        ("wait4", libc::SYS_wait4, [usize::MAX, p, 1, 0, 0, 0]),
        ("munmap", libc::SYS_munmap, [p, PAGE, 0, 0, 0, 0]),
        ("mprotect", libc::SYS_mprotect, [p & !(PAGE - 1), PAGE, 1, 0, 0, 0]),
        ("statfs", libc::SYS_statfs, [c"/".as_ptr() as usize, p, 0, 0, 0, 0]),
        ("getdents64", libc::SYS_getdents64, [usize::MAX, p, 100, 0, 0, 0]),
    ];
    for (name, number, arguments) in calls {
        println!("{name}: {}", call(*number, *arguments));
    }
}

/// Calls that make a process or that never fail and never return are left out.
const LEFT_OUT: &[i64] = &[
    libc::SYS_fork,
    libc::SYS_vfork,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_reboot,
    libc::SYS_rt_sigreturn,
];

/// Every call number with wild arguments in a child; where the child dies or hangs, another goes on behind that place.
fn everything() -> u64 {
    let progress = Region::shared(PAGE);
    let last = 470 * WILD.len() as u32;
    let mut lost = 0;
    while progress.word(0) < last {
        let start = progress.word(0);
        let child = process::spawn(|| {
            for step in start..last {
                progress.set_word(0, step + 1);
                let number = i64::from(step) / WILD.len() as i64;
                let p = WILD[step as usize % WILD.len()];
                if !LEFT_OUT.contains(&number) {
                    // SAFETY: wild on purpose; see the module.
                    unsafe { libc::syscall(number, p, p, p, p, p, p) };
                }
            }
            0
        });
        let (mut seen, mut since) = (start, now_ns());
        loop {
            let mut status = 0;
            // SAFETY: `status` is live.
            if unsafe { libc::waitpid(child, &mut status, libc::WNOHANG) } == child {
                break;
            }
            if progress.word(0) != seen {
                (seen, since) = (progress.word(0), now_ns());
            } else if now_ns() - since > 400_000_000 {
                let _ = process::kill(child, libc::SIGKILL);
                process::wait(child);
                break;
            }
            process::sleep_ms(20);
        }
        lost += 1;
        check!(progress.word(0) > start, "the child did not get anywhere");
    }
    lost
}

fn main() {
    for &p in WILD {
        println!("pointer {p:#x}");
        let status = process::in_child(|| {
            named(p);
            0
        });
        println!("child: {status}");
    }
    if judge::present() {
        judge::metric("children_lost", everything());
        judge::checkpoint("wild-pointers");
    }
    println!("the parent lives");
}
