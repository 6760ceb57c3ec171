//! remap_file_pages(2): another part of the file under a range of a shared mapping, while others map the file through the
//! same tables.

use ptshare_programs::memory::{self, PAGE, RW, Region, TABLE};
use ptshare_programs::process::{self, Gate};
use ptshare_programs::{check, check_eq, errno, judge};
use std::os::fd::AsRawFd;

const BYTES: usize = 4 * TABLE;
const SALT: u32 = 100;
const BASE: usize = 0x2000_0000_0000;

/// The call, with its error number.
fn remap(range: Region, prot: i32, page: usize, flags: i32) -> Result<(), i32> {
    let args = [range.base, range.len, prot as usize, page, flags as usize];
    // SAFETY: the range is this program's own, and regions give out no references.
    let code =
        unsafe { libc::syscall(libc::SYS_remap_file_pages, args[0], args[1], args[2], args[3], args[4]) };
    if code == 0 { Ok(()) } else { Err(errno()) }
}

fn the_refusals(shared: Region) {
    let whole = shared.part(0, PAGE);
    check_eq!(remap(whole, RW, 0, 0), Err(libc::EINVAL));
    check_eq!(remap(Region { base: whole.base, len: 0 }, 0, 0, 0), Err(libc::EINVAL));
    check_eq!(remap(whole, 0, usize::MAX, 0), Err(libc::EINVAL));
    check_eq!(remap(Region { base: shared.base, len: shared.len + TABLE }, 0, 0, 0), Err(libc::EINVAL));
    let private = Region::private(PAGE);
    check_eq!(remap(private, 0, 0, 0), Err(libc::EINVAL));
    private.unmap();
    check_eq!(remap(private, 0, 0, 0), Err(libc::EINVAL));
    println!("the refusals");
}

fn main() {
    let file = memory::memfd(BYTES);
    let fd = file.as_raw_fd();
    let shared = Region::of_file_at(BASE, fd, BYTES, RW, libc::MAP_SHARED);
    shared.mark_pages(1, SALT);
    the_refusals(shared);

    let (go, done) = (Gate::new(), Gate::new());
    let other = process::spawn(|| {
        let region = Region::of_file_at(BASE + (1 << 30), fd, BYTES, RW, libc::MAP_SHARED);
        for _ in 0..4 {
            go.pass();
            check!(region.pages_are_marked(1, SALT), "the other mapping shows something else");
            done.open();
        }
        0
    });
    let look = || {
        go.open();
        done.pass();
    };
    look();
    let word = |page: usize| shared.word(page * PAGE);
    let pages = TABLE / PAGE;

    // A page, with a start and a length that are no multiples of one: rounded down.
    let odd = Region { base: shared.base + 3 * PAGE + 5, len: 2 * PAGE - 1 };
    check_eq!(remap(odd, 0, 700, 0), Ok(()));
    check_eq!([word(2), word(3), word(4)], [102, 800, 104]);
    look();
    // A table's span shows another one's.
    check_eq!(remap(shared.part(TABLE, TABLE), 0, 2 * pages, libc::MAP_NONBLOCK), Ok(()));
    check_eq!(word(pages + 7), word(2 * pages + 7));
    look();
    // All of it, whatever it has become.
    check_eq!(remap(shared, 0, 0, 0), Ok(()));
    check!(shared.pages_are_marked(1, SALT), "the mapping is not as it was");
    shared.set_word(8, 1);
    judge::checkpoint("remapped");
    look();

    // Shared anonymous memory has pages, too.
    let memory = Region::shared(4 * PAGE);
    memory.mark_pages(1, 1);
    check_eq!(remap(memory.part(0, PAGE), 0, 3, 0), Ok(()));
    check_eq!(memory.word(0), 4);
    memory.set_word(0, 9);
    check_eq!(memory.word(3 * PAGE), 9);
    println!("the other process: {}", process::wait(other));
}
