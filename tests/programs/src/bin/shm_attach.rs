//! System V shared memory: attached read-only, at rounded addresses, over other mappings; counted over fork, exec and exit;
//! marked for destruction and alive until the last has left (2003 paper, section 3.1: shmget and the mapping it makes).

use ptshare_programs::memory::{PAGE, Region, TABLE};
use ptshare_programs::process::{self, Gate};
use ptshare_programs::{check, check_eq, errno, errno_name, judge, signal};
use std::os::unix::process::CommandExt;

const BYTES: usize = 2 * TABLE;
const BASE: usize = 0x2000_0000_0000;

fn attach(id: i32, at: usize, flags: i32) -> Result<Region, i32> {
    // SAFETY: a new mapping; with SHM_REMAP over a range that this program owns.
    let base = unsafe { libc::shmat(id, at as *const _, flags) };
    if base as isize == -1 { Err(errno()) } else { Ok(Region { base: base as usize, len: BYTES }) }
}

fn must_attach(id: i32, at: usize, flags: i32) -> Region {
    let result = attach(id, at, flags);
    check!(result.is_ok(), "shmat failed: {result:?}");
    result.unwrap_or(Region { base: 0, len: 0 })
}

fn detach(region: Region) -> String {
    // SAFETY: regions give out no references.
    let result = unsafe { libc::shmdt(region.base as *const _) };
    if result == 0 { "ok".into() } else { errno_name(errno()) }
}

fn status(id: i32) -> Option<libc::shmid_ds> {
    // SAFETY: all zeros is a valid value.
    let mut status: libc::shmid_ds = unsafe { std::mem::zeroed() };
    // SAFETY: the structure is live.
    (unsafe { libc::shmctl(id, libc::IPC_STAT, &mut status) } == 0).then_some(status)
}

fn attached(id: i32) -> u64 {
    status(id).map_or(u64::MAX, |status| status.shm_nattch)
}

fn main() {
    if let Some(id) = std::env::args().nth(1).and_then(|id| id.parse().ok()) {
        // After exec nothing is attached any more.
        check_eq!(attached(id), 1);
        process::leave(0);
    }
    // SAFETY: no pointer.
    let id = unsafe { libc::shmget(libc::IPC_PRIVATE, BYTES, libc::IPC_CREAT | 0o600) };
    check!(id >= 0, "shmget failed: {}", errno_name(errno()));
    let region = must_attach(id, BASE, 0);
    region.mark_pages(16, 5);
    check!(
        attached(id) == 1 && status(id).is_some_and(|s| s.shm_segsz == BYTES),
        "IPC_STAT says something else"
    );

    // Read-only, elsewhere, in another process; and a write there.
    let reader = process::in_child(|| {
        let own = must_attach(id, 0, libc::SHM_RDONLY);
        check!(own.pages_are_marked(16, 5), "the segment shows something else");
        check_eq!(attached(id), 3);
        signal::default_faults();
        own.set_word(0, 1);
        0
    });
    println!("a write to a read-only attachment: {reader}");
    check_eq!(attached(id), 1);

    println!("not aligned: {:?}", attach(id, BASE + BYTES + 5, 0).map_err(errno_name).err());
    let rounded = must_attach(id, BASE + BYTES + 5, libc::SHM_RND);
    println!("rounded down: {}", rounded.base == BASE + BYTES);
    println!("in the way: {:?}", attach(id, BASE + PAGE, 0).map_err(errno_name).err());
    let other = Region::expect_at(BASE + 4 * BYTES, BYTES);
    other.set_word(0, 1);
    let over = must_attach(id, other.base, libc::SHM_REMAP);
    check!(over.pages_are_marked(16, 5), "SHM_REMAP shows something else");
    println!("detached twice: {} and {}", detach(over), detach(over));
    println!("inside an attachment: {}", detach(rounded.part(PAGE, PAGE)));
    check_eq!(detach(rounded), "ok");

    // Pieces of one attachment go together.
    let whole = must_attach(id, BASE + 8 * BYTES, 0);
    whole.part(PAGE, PAGE).unmap();
    whole.part(8 * PAGE, PAGE).protect(libc::PROT_READ);
    println!("an attachment with a hole: {}", detach(whole));
    check_eq!(attached(id), 1);

    // Fork attaches, exec and exit detach.
    let (go, ready) = (Gate::new(), Gate::new());
    let child = process::spawn(|| {
        ready.open();
        go.pass();
        region.set_word(4, 6);
        let error = std::process::Command::new("/proc/self/exe").arg(id.to_string()).exec();
        eprintln!("exec failed: {error}");
        1
    });
    ready.pass();
    check_eq!(attached(id), 2);
    judge::checkpoint("attached-by-fork");
    go.open();
    println!("exec: {}", process::wait(child));
    check_eq!((attached(id), region.word(4)), (1, 6));

    // Marked for destruction: no key finds it, the memory stays.
    // SAFETY: removing takes no pointer.
    check_eq!(unsafe { libc::shmctl(id, libc::IPC_RMID, std::ptr::null_mut()) }, 0);
    const SHM_DEST: u32 = 0o1000;
    println!("marked: {}", status(id).is_some_and(|s| u32::from(s.shm_perm.mode) & SHM_DEST != 0));
    check!(region.pages_are_marked(16, 5), "the marked segment shows something else");
    let late = must_attach(id, 0, 0);
    check!(late.pages_are_marked(16, 5), "the marked segment shows something else");
    check_eq!((detach(late), detach(region)), ("ok".into(), "ok".into()));
    println!("after the last: {}", status(id).is_none());
}
