//! One page cache for every way to a file's bytes: read and write, shared mappings in several processes, private mappings
//! that have not been written (2003 paper, section 2.4). On tmpfs, a memfd, POSIX shared memory, and the program's own file.

use ptshare_programs::memory::{PAGE, RW, Region};
use ptshare_programs::process::{self, Gate};
use ptshare_programs::{check, check_eq, judge};
use std::fs::{File, OpenOptions};
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::fs::FileExt;

const PAGES: usize = 40;

fn put(file: &File, offset: usize, word: u32) {
    check!(file.write_all_at(&word.to_le_bytes(), offset as u64).is_ok(), "write failed");
}

fn take(file: &File, offset: usize) -> u32 {
    let mut bytes = [0; 4];
    check!(file.read_exact_at(&mut bytes, offset as u64).is_ok(), "read failed");
    u32::from_le_bytes(bytes)
}

fn sync(region: Region, flags: i32) {
    // SAFETY: regions give out no references.
    check_eq!(unsafe { libc::msync(region.base as *mut _, region.len, flags) }, 0);
}

/// All ways to the bytes of an empty file, in two processes.
fn coherent(name: &str, file: &File) {
    check!(file.set_len((PAGES * PAGE) as u64).is_ok(), "ftruncate failed");
    let fd = file.as_raw_fd();
    let shared = Region::of_file(fd, PAGES * PAGE, RW, libc::MAP_SHARED);
    let private = Region::of_file(fd, PAGES * PAGE, RW, libc::MAP_PRIVATE);
    let (go, done) = (Gate::new(), Gate::new());
    let child = process::spawn(|| {
        let own = Region::of_file(fd, PAGES * PAGE, RW, libc::MAP_SHARED);
        go.pass();
        check_eq!((own.word(0), own.word(3 * PAGE), take(file, 3 * PAGE)), (1, 2, 2));
        own.set_word(5 * PAGE, 3);
        put(file, 6 * PAGE, 4);
        done.open();
        0
    });
    put(file, 0, 1);
    check_eq!((shared.word(0), private.word(0)), (1, 1));
    shared.set_word(3 * PAGE, 2);
    check_eq!((take(file, 3 * PAGE), private.word(3 * PAGE)), (2, 2));
    go.open();
    done.pass();
    check_eq!((shared.word(5 * PAGE), take(file, 5 * PAGE), private.word(5 * PAGE)), (3, 3, 3));
    check_eq!((shared.word(6 * PAGE), private.word(6 * PAGE)), (4, 4));
    // From its first write on, a private page is apart, and a file knows nothing of it.
    private.set_word(0, 100);
    put(file, 0, 5);
    check_eq!((private.word(0), shared.word(0), take(file, 0)), (100, 5, 5));
    sync(shared, libc::MS_SYNC);
    sync(shared, libc::MS_ASYNC | libc::MS_INVALIDATE);
    judge::checkpoint(name);
    check_eq!(process::wait(child).code(), Some(0));
    shared.unmap();
    private.unmap();
    check_eq!(take(file, 5 * PAGE), 3);
    println!("{name}: read, write and mappings agree");
}

fn posix_shm() -> File {
    let path = c"/ptshare-page-cache";
    // SAFETY: the name is a NUL-terminated constant.
    let fd = unsafe { libc::shm_open(path.as_ptr(), libc::O_RDWR | libc::O_CREAT | libc::O_EXCL, 0o600) };
    check!(fd >= 0, "shm_open failed: {}", ptshare_programs::errno());
    // SAFETY: the same constant.
    check_eq!(unsafe { libc::shm_unlink(path.as_ptr()) }, 0);
    // SAFETY: the descriptor is open, and nobody else's.
    unsafe { File::from_raw_fd(fd) }
}

fn memfd() -> File {
    // SAFETY: the name is a NUL-terminated constant.
    let fd = unsafe { libc::memfd_create(c"page cache".as_ptr(), 0) };
    check!(fd >= 0, "memfd_create failed");
    // SAFETY: the descriptor is open, and nobody else's.
    unsafe { File::from_raw_fd(fd) }
}

fn main() {
    let path = "/tmp/ptshare-page-cache";
    let _ = std::fs::remove_file(path);
    let file = OpenOptions::new().read(true).write(true).create_new(true).open(path);
    check!(file.is_ok(), "{path} cannot be made: {file:?}");
    if let Ok(file) = file {
        coherent("a file in /tmp", &file);
        check!(std::fs::remove_file(path).is_ok(), "unlink failed");
        check_eq!(take(&file, 3 * PAGE), 2);
    }
    coherent("a memfd", &memfd());
    coherent("POSIX shared memory", &posix_shm());

    // The program's own file, of which code is mapped already: read and mappings show the same.
    let program = File::open("/proc/self/exe");
    check!(program.is_ok(), "the program's file cannot be opened");
    if let Ok(program) = program {
        let region = Region::of_file(program.as_raw_fd(), 16 * PAGE, libc::PROT_READ, libc::MAP_PRIVATE);
        check!((0..16).all(|page| region.word(page * PAGE) == take(&program, page * PAGE)), "they differ");
        println!("the program's own file: read and a mapping agree");
    }
}
