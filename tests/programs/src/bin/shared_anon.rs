//! Shared memory stays shared over fork: anonymous, and a file's; private mappings of the same file do not.

use ptshare_programs::memory::{PAGE, RW, Region, TABLE};
use ptshare_programs::process::{self, Gate};
use ptshare_programs::{check, check_eq, judge};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;

const PAGES: usize = 64;

fn main() {
    let shared = Region::shared(2 * TABLE);
    shared.mark_pages(64, 1);
    let (to_child, to_parent) = (Gate::new(), Gate::new());
    let child = process::spawn(|| {
        check!(shared.pages_are_marked(64, 1), "the child does not see shared memory");
        shared.set_word(0, 111);
        // A page that nobody had touched.
        shared.set_word(TABLE + 5 * PAGE, 222);
        to_parent.open();
        to_child.pass();
        check_eq!(shared.word(4), 333);
        let grandchild = process::in_child(|| {
            shared.set_word(8, 444);
            0
        });
        check_eq!(grandchild.code(), Some(0));
        shared.part(TABLE, TABLE).unmap();
        0
    });
    to_parent.pass();
    check_eq!(shared.word(0), 111);
    check_eq!(shared.word(TABLE + 5 * PAGE), 222);
    shared.set_word(4, 333);
    judge::checkpoint("shared-memory");
    to_child.open();
    println!("child: {}", process::wait(child));
    check_eq!(shared.word(8), 444);
    check_eq!(shared.word(TABLE + 5 * PAGE), 222);
    println!("anonymous shared memory is coherent");

    let folder = if std::path::Path::new("/dev/shm").is_dir() { "/dev/shm" } else { "/tmp" };
    let name = format!("{folder}/ptshare-shared-{}", std::process::id());
    let file = std::fs::File::options().create(true).truncate(true).read(true).write(true).open(&name);
    check!(file.is_ok(), "{name}: {file:?}");
    let Ok(file) = file else { return };
    let _ = std::fs::remove_file(&name);
    check!(file.set_len((PAGES * PAGE) as u64).is_ok(), "ftruncate failed");
    let mapped = Region::of_file(file.as_raw_fd(), PAGES * PAGE, RW, libc::MAP_SHARED);
    let private = Region::of_file(file.as_raw_fd(), PAGES * PAGE, RW, libc::MAP_PRIVATE);
    mapped.mark_pages(1, 10);
    check_eq!(private.word(3 * PAGE), 13);
    private.set_word(0, 9);
    let child = process::spawn(|| {
        mapped.set_word(PAGE, 77);
        check_eq!(private.word(0), 9);
        private.set_word(0, 8);
        check!(file.write_at(&88u32.to_le_bytes(), 2 * PAGE as u64).is_ok(), "pwrite failed");
        let mut word = [0; 4];
        check!(file.read_at(&mut word, 5 * PAGE as u64).is_ok(), "pread failed");
        u32::from_le_bytes(word) as i32
    });
    println!("child: {}", process::wait(child));
    check_eq!(mapped.word(PAGE), 77);
    check_eq!(mapped.word(2 * PAGE), 88);
    check_eq!(mapped.word(0), 10);
    check_eq!(private.word(0), 9);
    println!("a mapped file is coherent with reads and writes");
    // What lies beyond the end of the file is gone, for every mapping.
    check!(file.set_len(PAGE as u64).is_ok(), "ftruncate failed");
    for (name, region) in [("shared", &mapped), ("private", &private)] {
        let status = process::in_child(|| {
            ptshare_programs::signal::default_faults();
            region.get(10 * PAGE).into()
        });
        println!("{name} mapping beyond the end of the file: {status}");
    }
    println!("done");
}
