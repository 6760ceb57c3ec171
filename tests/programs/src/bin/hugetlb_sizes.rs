//! Sizes of huge pages: those that /sys lists can be asked for in every way, others are refused in the words of each call.

use ptshare_programs::huge::{self, HUGE};
use ptshare_programs::memory::RW;
use ptshare_programs::{check, check_eq, errno};

const GIB: usize = 1 << 30;

/// What the calls say of pages of `1 << shift` bytes: mmap, memfd_create, shmget.
fn ask(shift: i32, bytes: usize) -> [Result<(), i32>; 3] {
    let size = shift << libc::MAP_HUGE_SHIFT;
    let flags = libc::MAP_HUGETLB | libc::MAP_PRIVATE | size;
    let mapped = huge::map(0, bytes, RW, flags, -1).map(|region| region.unmap());
    // SAFETY: the name is a NUL-terminated constant.
    let fd = unsafe { libc::memfd_create(c"sizes".as_ptr(), libc::MFD_HUGETLB | size as u32) };
    let created = if fd < 0 { Err(errno()) } else { Ok(()) };
    // SAFETY: no pointer; the descriptor, if there is one, is this function's own.
    unsafe { libc::close(fd) };
    let flags = libc::IPC_CREAT | libc::IPC_EXCL | libc::SHM_HUGETLB | size | 0o600;
    // SAFETY: no pointer.
    let id = unsafe { libc::shmget(libc::IPC_PRIVATE, bytes, flags) };
    let segment = if id < 0 { Err(errno()) } else { Ok(()) };
    // SAFETY: no pointer is used for this command.
    unsafe { libc::shmctl(id, libc::IPC_RMID, std::ptr::null_mut()) };
    [mapped, created, segment]
}

fn main() {
    huge::need(2);
    check_eq!(ask(21, HUGE), [Ok(()); 3]);
    check_eq!(ask(0, HUGE), [Ok(()); 3]);
    let none = [Err(libc::EINVAL), Err(libc::ENODEV), Err(libc::EINVAL)];
    for shift in [16, 24, 34] {
        check_eq!(ask(shift, GIB), none);
    }
    let pool = "/sys/kernel/mm/hugepages/hugepages-1048576kB/free_hugepages";
    let free = std::fs::read_to_string(pool).ok().and_then(|text| text.trim().parse::<u64>().ok());
    let gib = ask(30, GIB);
    match free {
        None => check_eq!(gib, none),
        Some(0) => check_eq!(gib, [Err(libc::ENOMEM), Ok(()), Err(libc::ENOMEM)]),
        Some(_) => check!(gib.iter().all(Result::is_ok), "pages of 1 GiB: {gib:?}"),
    }
    println!("sizes that there are, and others");
}
