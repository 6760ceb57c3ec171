//! The four ways to huge pages: mmap(MAP_HUGETLB), memfd_create(MFD_HUGETLB), shmget(SHM_HUGETLB), a file on hugetlbfs;
//! what the pool counts meanwhile, and what is refused.

use ptshare_programs::huge::{self, HUGE, is_marked, map, mark, must_map, pool};
use ptshare_programs::memory::{PAGE, RW, Region};
use ptshare_programs::{check, check_eq, errno, errno_name, judge, process, signal};
use std::ffi::CString;

const HUGE_2MB: i32 = 21 << libc::MAP_HUGE_SHIFT;

/// What the pool has less free, and more reserved, than at the start.
fn used(start: [u64; 3]) -> (u64, i64) {
    let now = pool();
    (start[1] - now[1], now[2] as i64 - start[2] as i64)
}

fn result(value: i32) -> String {
    if value == 0 { "success".into() } else { errno_name(errno()) }
}

fn anonymous(start: [u64; 3]) {
    for (name, kind) in [("private", libc::MAP_PRIVATE), ("shared", libc::MAP_SHARED)] {
        let region = must_map(0, 3 * HUGE, RW, kind | libc::MAP_HUGETLB | HUGE_2MB, -1);
        check!(region.base.is_multiple_of(HUGE), "a huge mapping at {:#x}", region.base);
        println!("{name} anonymous: mapped, free and reserved: {:?}", used(start));
        region.part(0, 2 * HUGE).mark_pages(512, 5);
        println!("{name} anonymous: two written, free and reserved: {:?}", used(start));
        let child = process::in_child(|| {
            check!(region.part(0, 2 * HUGE).pages_are_marked(512, 5), "a child sees other pages");
            0
        });
        println!("{name} anonymous: child: {child}");
        judge::checkpoint(name);
        region.unmap();
        println!("{name} anonymous: unmapped, free and reserved: {:?}", used(start));
    }
}

fn memfd(start: [u64; 3]) {
    let fd = huge::memfd(4 * HUGE);
    // SAFETY: no pointers but a readable byte.
    unsafe {
        println!("memfd: ftruncate to half a page: {}", result(libc::ftruncate(fd, HUGE as i64 / 2)));
        println!("memfd: write: {}", result(libc::write(fd, [1u8].as_ptr().cast(), 1) as i32));
    }
    let region = must_map(0, 4 * HUGE, RW, libc::MAP_SHARED, fd);
    mark(&region, 100);
    let mut word = [0u8; 4];
    // SAFETY: the buffer has room for four bytes.
    let got = unsafe { libc::pread(fd, word.as_mut_ptr().cast(), 4, 2 * HUGE as i64 + 64) };
    println!("memfd: read {got} bytes: {}", u32::from_le_bytes(word));
    let punch = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    // SAFETY: no pointer.
    let punched = unsafe { libc::fallocate(fd, punch, HUGE as i64, HUGE as i64) };
    println!("memfd: punch: {}, free and reserved: {:?}", result(punched), used(start));
    // SAFETY: no pointer.
    let shorter = unsafe { libc::ftruncate(fd, 2 * HUGE as i64) };
    println!("memfd: truncate: {}, free and reserved: {:?}", result(shorter), used(start));
    check_eq!(region.word(64), 100);
    let beyond = process::in_child(|| {
        signal::default_faults();
        region.get(3 * HUGE).into()
    });
    println!("memfd: beyond the end: {beyond}");
    check_eq!(region.word(HUGE + 64), 0);
    region.unmap();
    // SAFETY: the descriptor is this function's own.
    unsafe { libc::close(fd) };
    println!("memfd: closed, free and reserved: {:?}", used(start));
}

fn segment(start: [u64; 3]) {
    // SAFETY: no pointer.
    let id =
        unsafe { libc::shmget(libc::IPC_PRIVATE, 2 * HUGE, libc::IPC_CREAT | libc::SHM_HUGETLB | 0o600) };
    check!(id >= 0, "shmget failed: {}", errno());
    println!("segment: made, free and reserved: {:?}", used(start));
    // SAFETY: a fresh attachment at a free address.
    let base = unsafe { libc::shmat(id, std::ptr::null(), 0) };
    check!(base as usize != usize::MAX, "shmat failed: {}", errno());
    let region = Region { base: base as usize, len: 2 * HUGE };
    mark(&region, 7);
    let child = process::in_child(|| {
        region.set_word(64, 70);
        i32::from(!is_marked(&region.part(HUGE, HUGE), 7) && region.word(HUGE + 64) != 8)
    });
    println!("segment: child: {child}, sees {}", region.word(64));
    judge::checkpoint("segment");
    // SAFETY: the attachment and the segment are this function's own, and no reference points there.
    unsafe {
        libc::shmdt(base);
        libc::shmctl(id, libc::IPC_RMID, std::ptr::null_mut());
    }
    println!("segment: gone, free and reserved: {:?}", used(start));
}

fn file(start: [u64; 3]) {
    let folder = format!("{}/huge-{}", std::env::temp_dir().display(), std::process::id());
    check!(std::fs::create_dir(&folder).is_ok(), "mkdir {folder}");
    let Ok(target) = CString::new(folder.clone()) else { return };
    let mount = |options: &std::ffi::CStr| {
        // SAFETY: all strings end with NUL.
        let made = unsafe {
            libc::mount(c"none".as_ptr(), target.as_ptr(), c"hugetlbfs".as_ptr(), 0, options.as_ptr().cast())
        };
        result(made)
    };
    println!("hugetlbfs: an unknown option: {}", mount(c"colour=red"));
    println!("hugetlbfs: mount: {}", mount(c"size=8M,pagesize=2M,mode=0700,uid=3,gid=4"));
    // SAFETY: the path ends with NUL, the structure is writable.
    let fs = unsafe {
        let mut fs: libc::statfs = std::mem::zeroed();
        check_eq!(libc::statfs(target.as_ptr(), &mut fs), 0);
        fs
    };
    println!(
        "hugetlbfs: type {:#x}, block {}, {} of {} free, {} of {} files",
        fs.f_type, fs.f_bsize, fs.f_bfree, fs.f_blocks, fs.f_ffree as i64, fs.f_files as i64
    );
    let link = std::os::unix::fs::symlink("target", format!("{folder}/link"));
    println!(
        "hugetlbfs: symlink: {}",
        link.map_or_else(|e| errno_name(e.raw_os_error().unwrap_or(0)), |()| "success".into())
    );
    let name = format!("{folder}/file");
    let file = std::fs::File::options().create(true).truncate(false).read(true).write(true).open(&name);
    check!(file.is_ok(), "{file:?}");
    let Ok(file) = file else { return };
    let fd = std::os::fd::AsRawFd::as_raw_fd(&file);
    // SAFETY: no pointer.
    let made = unsafe { libc::fallocate(fd, 0, 0, HUGE as i64) };
    println!("hugetlbfs: fallocate: {}, free and reserved: {:?}", result(made), used(start));
    println!(
        "hugetlbfs: more than the mount has: {:?}",
        map(0, 5 * HUGE, RW, libc::MAP_SHARED, fd).map(|_| ())
    );
    let region = must_map(0, 3 * HUGE, RW, libc::MAP_SHARED, fd);
    mark(&region, 30);
    check_eq!(file.metadata().map(|meta| meta.len()).unwrap_or(0), 3 * HUGE as u64);
    let private = must_map(0, HUGE, RW, libc::MAP_PRIVATE, fd);
    check_eq!(private.word(64), 30);
    private.set_word(64, 31);
    check_eq!(region.word(64), 30);
    println!("hugetlbfs: a private copy, free and reserved: {:?}", used(start));
    judge::checkpoint("hugetlbfs");
    private.unmap();
    region.unmap();
    drop(file);
    check!(std::fs::remove_file(&name).is_ok(), "unlink");
    // SAFETY: the path ends with NUL.
    println!("hugetlbfs: umount: {}", result(unsafe { libc::umount(target.as_ptr()) }));
    check!(std::fs::remove_dir(&folder).is_ok(), "rmdir");
    println!("hugetlbfs: gone, free and reserved: {:?}", used(start));
}

fn refusals() {
    let huge = libc::MAP_PRIVATE | libc::MAP_HUGETLB;
    let error = |result: Result<Region, i32>| result.map_or_else(errno_name, |_| "success".into());
    println!("a size that there is not: {}", error(map(0, HUGE, RW, huge | 22 << libc::MAP_HUGE_SHIFT, -1)));
    println!("an odd address: {}", error(map(0x7000_0000_1000, HUGE, RW, huge, -1)));
    println!("more than the pool: {}", error(map(0, 1 << 42, RW, huge, -1)));
    let region = must_map(0, PAGE, RW, huge, -1);
    region.set(HUGE.min(region.len) - 1, 1);
    let whole = Region { base: region.base, len: HUGE };
    whole.set_word(HUGE - 4, 9);
    // SAFETY: the mapping is this function's own; what fails changes nothing.
    unsafe {
        let at = |offset: usize| (whole.base + offset) as *mut libc::c_void;
        println!("munmap of a small page: {}", result(libc::munmap(at(0), PAGE)));
        println!("mprotect of a small page: {}", result(libc::mprotect(at(PAGE), PAGE, libc::PROT_READ)));
        let moved = libc::mremap(at(0), HUGE, 2 * HUGE, libc::MREMAP_MAYMOVE);
        println!(
            "mremap to more: {}",
            if moved == libc::MAP_FAILED { errno_name(errno()) } else { "success".into() }
        );
        println!("madvise of a small page: {}", result(libc::madvise(at(PAGE), PAGE, libc::MADV_DONTNEED)));
    }
    check_eq!(whole.word(HUGE - 4), 9);
    whole.unmap();
}

fn main() {
    huge::need(16);
    let start = pool();
    anonymous(start);
    memfd(start);
    segment(start);
    file(start);
    refusals();
    println!("the pool is as it was: {}", pool() == start);
}
