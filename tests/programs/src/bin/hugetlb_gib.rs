//! Huge pages of 1 GiB: mapped privately and shared, by mmap, memfd, segment and hugetlbfs; copied after fork, protected,
//! moved, given back; what the pool and /proc say meanwhile. Where the processor has none, every way to them is refused.

use ptshare_programs::huge::{GIB, HUGE, map, must_map, place};
use ptshare_programs::memory::{PAGE, RW, Region};
use ptshare_programs::process::{self, Gate};
use ptshare_programs::views::{self, Smaps};
use ptshare_programs::{check, check_eq, errno, errno_name, judge, signal};
use std::ffi::CString;
use std::os::unix::fs::FileExt;

const POOL: &str = "/sys/kernel/mm/hugepages/hugepages-1048576kB";
const SIZE: i32 = 30 << libc::MAP_HUGE_SHIFT;
const PRIVATE: i32 = libc::MAP_PRIVATE | libc::MAP_HUGETLB | SIZE;
/// Pages of 1 GiB that the program has in use at most.
const NEEDED: u64 = 2;
/// Offsets that are looked at: in the first, a middle and the last page of 4 KiB.
const SPOTS: [usize; 3] = [64, GIB / 2 + 3 * HUGE + 7 * PAGE, GIB - 64];

/// Free and reserved pages of 1 GiB; `None` where there are no such pages.
fn pool() -> Option<[u64; 2]> {
    let read = |name: &str| std::fs::read_to_string(format!("{POOL}/{name}")).ok()?.trim().parse().ok();
    Some([read("free_hugepages")?, read("resv_hugepages")?])
}

/// What the pool has less free, and more reserved, than at the start.
fn used(start: [u64; 2]) -> (i64, i64) {
    let now = pool().unwrap_or_default();
    (start[0] as i64 - now[0] as i64, now[1] as i64 - start[1] as i64)
}

fn result(value: i32) -> String {
    if value == 0 { "success".into() } else { errno_name(errno()) }
}

fn outcome(result: Result<Region, i32>) -> String {
    result.map_or_else(errno_name, |_| "success".into())
}

fn mark(region: &Region, salt: u32) {
    for (i, at) in SPOTS.into_iter().enumerate() {
        region.set_word(at, salt + i as u32);
    }
}

fn is_marked(region: &Region, salt: u32) -> bool {
    SPOTS.into_iter().enumerate().all(|(i, at)| region.word(at) == salt + i as u32)
}

/// A memfd of pages of 1 GiB.
fn memfd() -> i32 {
    // SAFETY: the name is a NUL-terminated constant.
    unsafe { libc::memfd_create(c"gib".as_ptr(), libc::MFD_HUGETLB | SIZE as u32) }
}

/// An empty directory, for a mount.
fn folder() -> String {
    let folder = format!("{}/gib-{}", std::env::temp_dir().display(), std::process::id());
    check!(std::fs::create_dir(&folder).is_ok(), "mkdir {folder}");
    folder
}

fn mount(target: &CString, options: &std::ffi::CStr) -> String {
    // SAFETY: all strings end with NUL.
    result(unsafe {
        libc::mount(c"none".as_ptr(), target.as_ptr(), c"hugetlbfs".as_ptr(), 0, options.as_ptr().cast())
    })
}

/// Without such pages: nobody gets one, and each call says so in its own words.
fn refusals() {
    check_eq!(map(0, GIB, RW, PRIVATE, -1).err(), Some(libc::EINVAL));
    check_eq!((memfd(), errno()), (-1, libc::ENODEV));
    let flags = libc::IPC_CREAT | libc::SHM_HUGETLB | SIZE | 0o600;
    // SAFETY: no pointer.
    check_eq!((unsafe { libc::shmget(libc::IPC_PRIVATE, GIB, flags) }, errno()), (-1, libc::EINVAL));
    let folder = folder();
    let Ok(target) = CString::new(folder.clone()) else { return };
    let mounted = mount(&target, c"pagesize=1G");
    // EPERM for whoever may not mount at all.
    check!(mounted == "EINVAL" || mounted == "EPERM", "mount: {mounted}");
    check!(std::fs::remove_dir(&folder).is_ok(), "rmdir");
}

fn private(start: [u64; 2]) {
    let region = must_map(0, GIB, RW, PRIVATE, -1);
    check!(region.base.is_multiple_of(GIB), "a mapping of 1 GiB at {:#x}", region.base);
    println!("private: mapped: {:?}", used(start));
    mark(&region, 10);
    println!("private: written: {:?}", used(start));
    let (to_child, to_parent) = (Gate::new(), Gate::new());
    let child = process::spawn(|| {
        check!(is_marked(&region, 10), "the child sees another page");
        let grandchild = process::in_child(|| {
            judge::checkpoint("forked");
            region.set_word(SPOTS[0], 98);
            i32::from(region.word(SPOTS[1]) != 11)
        });
        println!("private: grandchild: {grandchild}");
        check!(is_marked(&region, 10), "the child sees the grandchild's store");
        region.set_word(SPOTS[1], 99);
        check_eq!((region.word(SPOTS[0]), region.word(SPOTS[2])), (10, 12));
        println!("private: the child has written: {:?}", used(start));
        judge::checkpoint("child-wrote");
        to_parent.open();
        to_child.pass();
        check_eq!((region.word(SPOTS[0]), region.word(SPOTS[1])), (10, 99));
        0
    });
    to_parent.pass();
    check!(is_marked(&region, 10), "the parent sees the child's store");
    mark(&region, 20);
    println!("private: the parent has written: {:?}", used(start));
    judge::checkpoint("parent-wrote");
    to_child.open();
    println!("private: child: {}", process::wait(child));
    println!("private: the child is gone: {:?}", used(start));
    shown(&region);
    judge::answer("private");
    changes(&region, start);
    println!("private: unmapped: {:?}", used(start));
}

/// What /proc and mincore show of a page that is there.
fn shown(region: &Region) {
    let smaps = Smaps::of(region.base);
    let [kernel, private, rss] = ["KernelPageSize", "Private_Hugetlb", "Rss"].map(|name| smaps.get(name));
    check_eq!((kernel, private, rss), (Some(1 << 20), Some(1 << 20), Some(0)));
    check_eq!(views::status("HugetlbPages"), Some(1 << 20));
    let first = views::pagemap(region.base);
    check!(first & views::PRESENT != 0 && first & views::OF_FILE == 0, "pagemap: {first:#x}");
    for offset in [PAGE, HUGE, GIB - PAGE] {
        let word = views::pagemap(region.base + offset);
        check_eq!(views::frame(word), views::frame(first) + (offset / PAGE) as u64);
    }
    let mut there = [0u8; 3];
    let last = region.base + GIB - 3 * PAGE;
    // SAFETY: the vector has room for three pages.
    check_eq!(unsafe { libc::mincore(last as *mut _, 3 * PAGE, there.as_mut_ptr()) }, 0);
    check_eq!(there, [1; 3]);
    // The kernel's own way, through the tables.
    let mut word = [0; 4];
    let memory = std::fs::File::open("/proc/self/mem");
    let got = memory.and_then(|memory| memory.read_exact_at(&mut word, (region.base + SPOTS[1]) as u64));
    check!(got.is_ok(), "/proc/self/mem: {got:?}");
    check_eq!(u32::from_le_bytes(word), region.word(SPOTS[1]));
    println!("private: smaps, pagemap, mincore and mem agree");
}

fn changes(region: &Region, start: [u64; 2]) {
    // SAFETY: the mapping is this function's own; what fails changes nothing.
    unsafe {
        let at = |offset: usize| (region.base + offset) as *mut libc::c_void;
        println!("private: munmap of 2 MiB: {}", result(libc::munmap(at(HUGE), HUGE)));
        println!("private: mprotect of 2 MiB: {}", result(libc::mprotect(at(0), HUGE, libc::PROT_READ)));
        println!(
            "private: madvise in the middle: {}",
            result(libc::madvise(at(HUGE), PAGE, libc::MADV_DONTNEED))
        );
        let grown = libc::mremap(at(0), GIB, 2 * GIB, libc::MREMAP_MAYMOVE);
        println!(
            "private: mremap to more: {}",
            if grown == libc::MAP_FAILED { errno_name(errno()) } else { "success".into() }
        );
        let aside = place(0) + HUGE;
        let moved = libc::mremap(at(0), GIB, GIB, libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED, aside);
        println!(
            "private: mremap to an odd place: {}",
            if moved == libc::MAP_FAILED { errno_name(errno()) } else { "success".into() }
        );
    }
    check!(is_marked(region, 20), "a refused call has changed the page");
    region.protect(libc::PROT_READ);
    let killed = process::in_child(|| {
        signal::default_faults();
        region.set_word(SPOTS[2], 1);
        0
    });
    println!("private: a write under PROT_READ: {killed}");
    region.protect(libc::PROT_NONE);
    let killed = process::in_child(|| {
        signal::default_faults();
        region.word(SPOTS[2]) as i32
    });
    println!("private: a read under PROT_NONE: {killed}");
    judge::checkpoint("closed");
    region.protect(RW);
    check!(is_marked(region, 20), "mprotect has changed the page");
    let moved = region.remap(GIB, Some(place(1)));
    check!(is_marked(&moved, 20), "the page has not moved");
    mark(&moved, 30);
    judge::checkpoint("moved");
    let gone = process::in_child(|| {
        signal::default_faults();
        region.word(64) as i32
    });
    println!("private: where it was: {gone}");
    moved.advise(libc::MADV_DONTNEED);
    println!("private: given back: {:?}", used(start));
    check!(SPOTS.into_iter().all(|at| moved.word(at) == 0), "a page given back has content");
    moved.unmap();
}

fn file_of(fd: i32, name: &str, start: [u64; 2]) {
    // SAFETY: no pointers but a readable byte.
    unsafe {
        println!("{name}: ftruncate to 2 MiB: {}", result(libc::ftruncate(fd, HUGE as i64)));
        println!("{name}: ftruncate to 2 GiB: {}", result(libc::ftruncate(fd, 2 * GIB as i64)));
        println!("{name}: write: {}", result(libc::write(fd, [1u8].as_ptr().cast(), 1) as i32));
    }
    let (one, two) = (
        must_map(0, 2 * GIB, RW, libc::MAP_SHARED | libc::MAP_NORESERVE, fd),
        must_map(place(2), GIB, libc::PROT_READ, libc::MAP_SHARED, fd),
    );
    println!("{name}: mapped: {:?}", used(start));
    mark(&one, 40);
    check!(is_marked(&two, 40), "{name}: the second mapping shows another page");
    let child = process::in_child(|| {
        check!(is_marked(&one, 40), "{name}: a child sees another page");
        one.set_word(SPOTS[1], 141);
        judge::checkpoint(name);
        0
    });
    println!("{name}: child: {child}, the parent reads {}", two.word(SPOTS[1]));
    let copy = must_map(place(4), GIB, RW, libc::MAP_PRIVATE, fd);
    check_eq!(copy.word(SPOTS[0]), 40);
    copy.set_word(SPOTS[0], 41);
    check_eq!((one.word(SPOTS[0]), copy.word(SPOTS[1])), (40, 141));
    println!("{name}: a private copy: {:?}", used(start));
    judge::checkpoint("copied");
    copy.unmap();
    let mut word = [0u8; 4];
    // SAFETY: the buffer has room for four bytes.
    let got = unsafe { libc::pread(fd, word.as_mut_ptr().cast(), 4, SPOTS[2] as i64) };
    println!("{name}: read {got} bytes: {}", u32::from_le_bytes(word));
    one.set_word(GIB + 64, 50);
    let punch = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    // SAFETY: no pointer.
    unsafe {
        // Less than a page is cleared, and stays.
        let small = libc::fallocate(fd, punch, SPOTS[0] as i64, 4);
        println!(
            "{name}: 4 bytes punched: {}, {} there: {:?}",
            result(small),
            two.word(SPOTS[0]),
            used(start)
        );
        println!("{name}: 1 GiB punched: {}", result(libc::fallocate(fd, punch, 0, GIB as i64)));
        println!("{name}: {} there: {:?}", two.word(SPOTS[1]), used(start));
        println!("{name}: truncated: {}", result(libc::ftruncate(fd, GIB as i64)));
    }
    let beyond = process::in_child(|| {
        signal::default_faults();
        one.word(GIB + 64) as i32
    });
    println!("{name}: beyond the end: {beyond}, {:?}", used(start));
    check_eq!(one.word(SPOTS[2]), 0);
    judge::checkpoint("truncated");
    one.unmap();
    two.unmap();
}

fn segment(start: [u64; 2]) {
    let flags = libc::IPC_CREAT | libc::SHM_HUGETLB | SIZE | 0o600;
    // SAFETY: no pointer.
    let id = unsafe { libc::shmget(libc::IPC_PRIVATE, PAGE, flags) };
    check!(id >= 0, "shmget failed: {}", errno());
    // SAFETY: a fresh attachment at a free address.
    let base = unsafe { libc::shmat(id, std::ptr::null(), 0) };
    check!(base as usize != usize::MAX, "shmat failed: {}", errno());
    let region = Region { base: base as usize, len: GIB };
    println!("segment: attached: {:?}", used(start));
    mark(&region, 60);
    let child = process::in_child(|| i32::from(!is_marked(&region, 60)));
    println!("segment: child: {child}");
    judge::checkpoint("segment");
    // SAFETY: the attachment and the segment are this function's own, and no reference points there.
    unsafe {
        libc::shmdt(base);
        libc::shmctl(id, libc::IPC_RMID, std::ptr::null_mut());
    }
    println!("segment: gone: {:?}", used(start));
}

fn mounted(start: [u64; 2]) {
    let folder = folder();
    let Ok(target) = CString::new(folder.clone()) else { return };
    println!("hugetlbfs: mount: {}", mount(&target, c"pagesize=1G,size=2G"));
    // SAFETY: the path ends with NUL, the structure is writable.
    let fs = unsafe {
        let mut fs: libc::statfs = std::mem::zeroed();
        check_eq!(libc::statfs(target.as_ptr(), &mut fs), 0);
        fs
    };
    println!("hugetlbfs: block {}, {} of {} free", fs.f_bsize, fs.f_bfree, fs.f_blocks);
    let name = format!("{folder}/file");
    let file = std::fs::File::options().create_new(true).read(true).write(true).open(&name);
    check!(file.is_ok(), "{file:?}");
    let Ok(file) = file else { return };
    let fd = std::os::fd::AsRawFd::as_raw_fd(&file);
    // SAFETY: no pointer.
    let made = unsafe { libc::fallocate(fd, 0, 0, 1) };
    println!("hugetlbfs: fallocate: {}, {:?}", result(made), used(start));
    println!("hugetlbfs: more than the mount has: {}", outcome(map(0, 3 * GIB, RW, libc::MAP_SHARED, fd)));
    file_of(fd, "hugetlbfs", start);
    drop(file);
    check!(std::fs::remove_file(&name).is_ok(), "unlink");
    // SAFETY: the path ends with NUL.
    println!("hugetlbfs: umount: {}, {:?}", result(unsafe { libc::umount(target.as_ptr()) }), used(start));
    check!(std::fs::remove_dir(&folder).is_ok(), "rmdir");
}

fn scarcity(start: [u64; 2]) {
    let more = (start[0] as usize + 1) * GIB;
    println!("more than the pool has: {}", outcome(map(0, more, RW, PRIVATE, -1)));
    println!("an odd address: {}", outcome(map(place(0) + HUGE, GIB, RW, PRIVATE, -1)));
    // All that there are but one: a fork's child finds that one, or none.
    let promised = must_map(0, start[0] as usize * GIB, RW, PRIVATE, -1);
    let wide = must_map(0, GIB, RW, PRIVATE | libc::MAP_NORESERVE, -1);
    let killed = process::in_child(|| {
        signal::default_faults();
        wide.set_word(0, 1);
        0
    });
    println!("without a reservation: {killed}");
    wide.unmap();
    promised.unmap();
}

fn main() {
    let Some(start) = pool() else {
        refusals();
        println!("SKIP: no pages of 1 GiB; they are refused in every way");
        return;
    };
    // SAFETY: no precondition.
    let root = unsafe { libc::geteuid() } == 0;
    if start[0] - start[1] < NEEDED || !root {
        println!("SKIP: {NEEDED} free huge pages of 1 GiB and root are needed");
        return;
    }
    private(start);
    let fd = memfd();
    check!(fd >= 0, "memfd_create failed: {}", errno());
    file_of(fd, "memfd", start);
    // SAFETY: the descriptor is this function's own.
    unsafe { libc::close(fd) };
    println!("memfd: closed: {:?}", used(start));
    segment(start);
    mounted(start);
    scarcity(start);
    println!("the pool is as it was: {}", pool() == Some(start));
}
