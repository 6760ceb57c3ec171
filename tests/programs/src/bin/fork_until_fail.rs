//! Forks until it fails, kills all children, and can fork again.
//!
//! On an ordinary machine nothing ends this in reasonable time, so there it stops after 40 children; in a guest with
//! little memory the failure comes by itself.

use ptshare_programs::{check, errno, errno_name, judge, process};

fn main() {
    let most: usize = match std::env::args().nth(1) {
        Some(text) => text.parse().unwrap_or(40),
        None if judge::present() => 100_000,
        None => 40,
    };
    // Room for the list beforehand: afterwards there may be no memory.
    let mut children = Vec::with_capacity(most);
    let mut failure = 0;
    while children.len() < most {
        // SAFETY: one thread, and the child does nothing but wait for its end.
        match unsafe { libc::fork() } {
            0 => loop {
                // SAFETY: no precondition.
                unsafe { libc::pause() };
            },
            -1 => {
                failure = errno();
                break;
            }
            pid => children.push(pid),
        }
    }
    judge::metric("children", children.len() as u64);
    judge::metric("failure", failure as u64);
    judge::checkpoint("no-more-forks");
    check!(children.len() >= 16, "fork failed after {} children: {}", children.len(), errno_name(failure));
    check!(matches!(failure, 0 | libc::EAGAIN | libc::ENOMEM), "fork failed with {}", errno_name(failure));
    for &child in &children {
        check!(process::kill(child, libc::SIGKILL).is_ok(), "a child is gone");
    }
    let killed =
        children.iter().filter(|&&child| process::wait(child).signal() == Some(libc::SIGKILL)).count();
    println!("all children were killed and reaped: {}", killed == children.len());
    for _ in 0..3 {
        println!("fork works again: {}", process::in_child(|| 0));
    }
}
