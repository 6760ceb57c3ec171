//! Children that run in their parent's memory until they exec or exit: posix_spawn, and CLONE_VM with CLONE_VFORK.

use ptshare_programs::memory::Region;
use ptshare_programs::{check, check_eq, errno, process};
use std::process::Command;

extern "C" fn child_in_our_memory(argument: *mut libc::c_void) -> i32 {
    // SAFETY: the parent passes a live word and sleeps until this process exits.
    unsafe { *argument.cast::<u32>() += 1 };
    7
}

fn main() {
    if let Some(code) = std::env::args().nth(1) {
        process::leave(code.parse().unwrap_or(99));
    }
    let big = Region::private(8 << 20);
    big.mark_pages(64, 5);

    let stack = Region::private(64 << 10);
    let mut word = 41u32;
    for _ in 0..3 {
        let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
        // SAFETY: the stack is ours and unused; `word` outlives the child, which CLONE_VFORK makes us wait for.
        let pid = unsafe {
            libc::clone(
                child_in_our_memory,
                (stack.base + stack.len) as *mut _,
                flags,
                (&raw mut word).cast(),
            )
        };
        check!(pid > 0, "clone failed: {}", errno());
        check_eq!(process::wait(pid).code(), Some(7));
    }
    println!("the child's writes are the parent's: {word}");

    let path = std::env::current_exe().unwrap_or_default();
    for code in [0, 3, 250] {
        let status = Command::new(&path).arg(code.to_string()).status();
        println!("spawned program: {:?}", status.map(|s| s.code()).map_err(|e| e.kind()));
    }
    let status = Command::new("/no/such/program").status();
    println!("a missing program: {:?}", status.map(|s| s.code()).map_err(|e| e.kind()));
    let output = Command::new(path).arg("5").output();
    println!("with pipes: {:?}", output.map(|o| (o.status.code(), o.stdout.len())).map_err(|e| e.kind()));
    check!(big.pages_are_marked(64, 5), "a child changed the parent's memory");
    println!("done");
}
