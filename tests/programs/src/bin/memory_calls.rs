//! Calls on mappings that change no byte: advice, flags of mmap, seals of files and of mappings, other processes' memory.

use ptshare_programs::memory::{PAGE, RW, Region};
use ptshare_programs::{check, check_eq, errno, errno_name, process};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

fn name(result: i64) -> String {
    if result < 0 { errno_name(errno()) } else { "ok".into() }
}

fn advise(region: Region, advice: i32) -> String {
    // SAFETY: regions give out no references.
    name(i64::from(unsafe { libc::madvise(region.base as *mut _, region.len, advice) }))
}

fn advice() {
    let region = Region::private(4 * PAGE);
    region.mark_pages(1, 1);
    for (advice, what) in [
        (libc::MADV_NORMAL, "NORMAL"),
        (libc::MADV_RANDOM, "RANDOM"),
        (libc::MADV_SEQUENTIAL, "SEQUENTIAL"),
        (libc::MADV_WILLNEED, "WILLNEED"),
        (libc::MADV_DONTFORK, "DONTFORK"),
        (libc::MADV_DOFORK, "DOFORK"),
        (libc::MADV_DONTDUMP, "DONTDUMP"),
        (libc::MADV_DODUMP, "DODUMP"),
        (libc::MADV_WIPEONFORK, "WIPEONFORK"),
        (libc::MADV_KEEPONFORK, "KEEPONFORK"),
        (libc::MADV_COLD, "COLD"),
        (libc::MADV_PAGEOUT, "PAGEOUT"),
        (libc::MADV_POPULATE_READ, "POPULATE_READ"),
        (libc::MADV_POPULATE_WRITE, "POPULATE_WRITE"),
        (libc::MADV_REMOVE, "REMOVE"),
        (-1, "-1"),
        (5, "5"),
    ] {
        println!("advice {what}: {}", advise(region, advice));
    }
    check!(region.pages_are_marked(1, 1), "advice changed something");
    println!("advice DONTNEED: {}", advise(region, libc::MADV_DONTNEED));
    check_eq!(region.word(0), 0);
    println!("not aligned: {}", advise(Region { base: region.base + 1, len: PAGE }, libc::MADV_NORMAL));
    region.part(PAGE, PAGE).unmap();
    println!("with a hole: {}", advise(region, libc::MADV_WILLNEED));
    println!("populate a hole: {}", advise(region, libc::MADV_POPULATE_READ));
    let closed = region.part(2 * PAGE, PAGE);
    closed.protect(libc::PROT_NONE);
    println!("populate what cannot be read: {}", advise(closed, libc::MADV_POPULATE_READ));
}

fn map(len: usize, prot: i32, flags: i32, fd: RawFd) -> Result<Region, i32> {
    // SAFETY: a new mapping at a free address harms nobody.
    let base = unsafe { libc::mmap(std::ptr::null_mut(), len, prot, flags, fd, 0) };
    if base == libc::MAP_FAILED { Err(errno()) } else { Ok(Region { base: base as usize, len }) }
}

fn show(result: Result<Region, i32>) -> String {
    match result {
        Ok(region) => {
            region.unmap();
            "ok".into()
        }
        Err(errno) => errno_name(errno),
    }
}

fn memfd(flags: u32) -> OwnedFd {
    // SAFETY: the name is a NUL-terminated constant.
    let fd = unsafe { libc::memfd_create(c"sealed".as_ptr(), flags) };
    check!(fd >= 0, "memfd_create failed: {}", errno_name(errno()));
    // SAFETY: the descriptor is open, and nobody else's.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

fn raw(fd: &OwnedFd) -> RawFd {
    fd.as_raw_fd()
}

fn mmap_flags() {
    const PRIVATE: i32 = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    let low = map(PAGE, RW, PRIVATE | libc::MAP_32BIT, -1);
    check!(low.is_ok_and(|region| region.base < 1 << 31), "MAP_32BIT: {low:?}");
    let locked = map(4 * PAGE, RW, PRIVATE | libc::MAP_LOCKED, -1);
    println!("locked: {}", show(locked));
    println!("no type: {}", show(map(PAGE, RW, libc::MAP_ANONYMOUS, -1)));
    println!("nothing: {}", show(map(0, RW, PRIVATE, -1)));
    println!("bad descriptor: {}", show(map(PAGE, RW, libc::MAP_PRIVATE, -1)));
    let file = memfd(0);
    // SAFETY: no pointer.
    check_eq!(unsafe { libc::ftruncate(raw(&file), PAGE as i64) }, 0);
    let validate = libc::MAP_SHARED_VALIDATE;
    println!("validated: {}", show(map(PAGE, RW, validate, raw(&file))));
    println!("validated, unknown flag: {}", show(map(PAGE, RW, validate | 1 << 7, raw(&file))));
    println!("synchronous: {}", show(map(PAGE, RW, validate | libc::MAP_SYNC, raw(&file))));
    let taken = map(PAGE, RW, PRIVATE, -1).unwrap_or(Region { base: 0, len: 0 });
    println!(
        "taken address: {:?}",
        Region::try_at(taken.base, PAGE, RW, PRIVATE).map_err(errno_name).is_err()
    );
    let grows = map(PAGE, RW, libc::MAP_SHARED | libc::MAP_GROWSDOWN, raw(&file));
    println!("a file that grows down: {}", show(grows));
}

fn file_seals() {
    const WRITE: i32 = 8;
    const FUTURE_WRITE: i32 = 16;
    let seal = |fd: &OwnedFd, seals: i32| {
        // SAFETY: no pointer.
        name(i64::from(unsafe { libc::fcntl(raw(fd), libc::F_ADD_SEALS, seals) }))
    };
    let file = memfd(libc::MFD_ALLOW_SEALING);
    // SAFETY: no pointer.
    check_eq!(unsafe { libc::ftruncate(raw(&file), PAGE as i64) }, 0);
    let shared = map(PAGE, RW, libc::MAP_SHARED, raw(&file)).unwrap_or(Region { base: 0, len: 0 });
    shared.set(0, 7);
    println!("write seal while it is mapped: {}", seal(&file, WRITE));
    println!("future-write seal while it is mapped: {}", seal(&file, FUTURE_WRITE));
    shared.set(0, 8);
    println!("a new shared mapping: {}", show(map(PAGE, RW, libc::MAP_SHARED, raw(&file))));
    println!("a private one: {}", show(map(PAGE, RW, libc::MAP_PRIVATE, raw(&file))));
    let reading = map(PAGE, libc::PROT_READ, libc::MAP_SHARED, raw(&file));
    let reading = reading.unwrap_or(Region { base: 0, len: 0 });
    check_eq!(reading.get(0), 8);
    // SAFETY: regions give out no references.
    let protect = unsafe { libc::mprotect(reading.base as *mut _, PAGE, RW) };
    println!("write through one for reading: {}", name(i64::from(protect)));
    shared.unmap();
    println!("write seal now: {}", seal(&file, WRITE));
    // SAFETY: the byte is readable.
    let wrote = unsafe { libc::write(raw(&file), [1u8].as_ptr().cast(), 1) };
    println!("write: {}", name(wrote as i64));
    println!("seals of a file that takes none: {}", seal(&memfd(0), WRITE));
    let fixed = memfd(libc::MFD_ALLOW_SEALING);
    println!("growth seal: {}", seal(&fixed, libc::F_SEAL_GROW));
    for mode in [0, libc::FALLOC_FL_KEEP_SIZE, libc::FALLOC_FL_KEEP_SIZE | libc::FALLOC_FL_PUNCH_HOLE] {
        // SAFETY: no pointer.
        let made = unsafe { libc::fallocate(raw(&fixed), mode, 0, PAGE as i64) };
        println!("fallocate {mode} beyond the end: {}", name(i64::from(made)));
    }
}

/// What statfs and F_GETFL say of descriptors.
fn descriptors() {
    let describe = |what: &str, fd: RawFd| {
        // SAFETY: an all-zero structure is valid, and the call fills it in.
        let (done, fs) = unsafe {
            let mut fs: libc::statfs = std::mem::zeroed();
            (libc::fstatfs(fd, &mut fs), fs)
        };
        // SAFETY: no pointer.
        let flags = unsafe { libc::fcntl(fd, libc::F_GETFL) };
        println!("{what}: {}, {:#x}, block {}, flags {flags:#o}", name(done.into()), fs.f_type, fs.f_bsize);
    };
    describe("a memfd", raw(&memfd(0)));
    let Ok((reader, writer)) = std::io::pipe() else { process::leave(1) };
    describe("a pipe's reader", reader.as_raw_fd());
    describe("its writer", writer.as_raw_fd());
    let Ok((socket, _)) = std::os::unix::net::UnixStream::pair() else { process::leave(1) };
    describe("a socket", socket.as_raw_fd());
    for path in ["/proc", "/proc/self/stat", "/sys"] {
        let file = std::fs::File::open(path);
        check!(file.is_ok(), "{path}: {file:?}");
        if let Ok(file) = file {
            describe(path, file.as_raw_fd());
        }
    }
}

fn other_memory() {
    let region = Region::private(3 * PAGE);
    region.set_word(PAGE, 41);
    let (go, done) = (process::Gate::new(), process::Gate::new());
    let child = process::spawn(|| {
        region.set_word(PAGE, 42);
        done.open();
        go.pass();
        i32::from(region.word(PAGE + 4) != 43)
    });
    done.pass();
    let copy = |write: bool, from: usize, len: usize, word: &mut [u32; 2]| {
        let local = libc::iovec { iov_base: word.as_mut_ptr().cast(), iov_len: 8 };
        let remote = libc::iovec { iov_base: from as *mut _, iov_len: len };
        // SAFETY: the local buffer is live and as long as said; the remote one is the other process's business.
        unsafe {
            if write {
                libc::process_vm_writev(child, &local, 1, &remote, 1, 0)
            } else {
                libc::process_vm_readv(child, &local, 1, &remote, 1, 0)
            }
        }
    };
    let mut words = [0; 2];
    let got = copy(false, region.base + PAGE, 8, &mut words);
    println!("read {got} bytes: {}", words[0]);
    let got = copy(true, region.base + PAGE + 4, 4, &mut [43, 0]);
    println!("wrote {got} bytes");
    region.part(2 * PAGE, PAGE).protect(libc::PROT_NONE);
    println!("at a bad address: {}", name(copy(false, 8, 8, &mut words) as i64));
    go.open();
    println!("the child: {}", process::wait(child));
    println!("nobody: {}", name(copy(false, region.base, 8, &mut words) as i64));
    check_eq!(region.word(PAGE), 41);
}

fn mapping_seals() {
    let region = Region::private(4 * PAGE);
    let seal = |region: Region, flags: usize| {
        // SAFETY: sealing changes no byte.
        let result = unsafe { libc::syscall(libc::SYS_mseal, region.base, region.len, flags) };
        name(result)
    };
    let middle = region.part(PAGE, 2 * PAGE);
    let first = seal(middle, 0);
    if first == "ENOSYS" {
        // Before Linux 6.10: what is compared says the same.
        eprintln!("SKIP: no mseal here");
        println!("sealed mappings stay");
        return;
    }
    check_eq!(first, "ok");
    check_eq!(seal(middle, 1), "EINVAL");
    check_eq!(seal(Region { base: middle.base + 1, len: PAGE }, 0), "EINVAL");
    // SAFETY: all of these are to be refused, and regions give out no references.
    unsafe {
        check_eq!(name(i64::from(libc::munmap(region.base as *mut _, region.len))), "EPERM");
        check_eq!(name(i64::from(libc::mprotect(middle.base as *mut _, PAGE, libc::PROT_READ))), "EPERM");
        let moved = libc::mremap(middle.base as *mut _, PAGE, 2 * PAGE, libc::MREMAP_MAYMOVE);
        check_eq!(name(moved as i64), "EPERM");
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED;
        check_eq!(name(libc::mmap(middle.base as *mut _, PAGE, RW, flags, -1, 0) as i64), "EPERM");
    }
    middle.set(0, 1);
    check_eq!(advise(middle, libc::MADV_DONTNEED), "ok");
    check_eq!(middle.get(0), 0);
    region.part(0, PAGE).unmap();
    println!("sealed mappings stay");
}

fn main() {
    advice();
    mmap_flags();
    file_seals();
    descriptors();
    other_memory();
    mapping_seals();
}
