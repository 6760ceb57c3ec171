//! System V semaphores and message queues, and the limits of System V shared memory in /proc/sys/kernel.

use ptshare_programs::{check, check_eq, errno, errno_name, process};
use std::fs;

fn name(result: i64) -> String {
    if result < 0 { errno_name(errno()) } else { result.to_string() }
}

fn op(num: u16, add: i16, flags: i32) -> libc::sembuf {
    libc::sembuf { sem_num: num, sem_op: add, sem_flg: flags as i16 }
}

fn semop(id: i32, ops: &mut [libc::sembuf]) -> i64 {
    // SAFETY: the operations are a live array of this length.
    i64::from(unsafe { libc::semop(id, ops.as_mut_ptr(), ops.len()) })
}

fn semctl(id: i32, num: i32, cmd: i32, value: i32) -> i64 {
    // SAFETY: the commands used here take a number, or nothing.
    i64::from(unsafe { libc::semctl(id, num, cmd, value) })
}

const GETPID: i32 = 11;
const GETVAL: i32 = 12;
const GETNCNT: i32 = 14;
const GETZCNT: i32 = 15;
const SETVAL: i32 = 16;

fn semaphores() {
    // SAFETY: no pointer.
    let id = unsafe { libc::semget(libc::IPC_PRIVATE, 2, 0o600) };
    check!(id >= 0, "semget failed: {}", errno_name(errno()));
    println!("set 5: {}", name(semctl(id, 0, SETVAL, 5)));
    println!("set 40000: {}", name(semctl(id, 0, SETVAL, 40000)));
    println!("take 3: {}", name(semop(id, &mut [op(0, -3, 0)])));
    println!("take 3 more, without waiting: {}", name(semop(id, &mut [op(0, -3, libc::IPC_NOWAIT)])));
    let both = &mut [op(1, 1, 0), op(0, -3, libc::IPC_NOWAIT)];
    println!("all or nothing: {}, the second is {}", name(semop(id, both)), semctl(id, 1, GETVAL, 0));
    println!("number 2 of 2: {}", name(semop(id, &mut [op(2, 1, 0)])));

    // A waiter for more, one for zero, and a process that ends with an undo.
    let more = process::spawn(|| i32::from(semop(id, &mut [op(0, -4, 0)]) != 0));
    let zero = process::spawn(|| i32::from(semop(id, &mut [op(0, 0, 0)]) != 0));
    while semctl(id, 0, GETNCNT, 0) != 1 || semctl(id, 0, GETZCNT, 0) != 1 {
        process::sleep_ms(5);
    }
    let undo = process::spawn(|| i32::from(semop(id, &mut [op(1, 7, libc::SEM_UNDO)]) != 0));
    check_eq!(process::wait(undo).code(), Some(0));
    println!("after an undo the second is {}", semctl(id, 1, GETVAL, 0));
    check_eq!(semctl(id, 1, GETPID, 0), i64::from(undo));
    check_eq!(semop(id, &mut [op(0, 2, 0)]), 0);
    check_eq!(process::wait(more).code(), Some(0));
    check_eq!(process::wait(zero).code(), Some(0));
    println!("both waiters went on, the first is {}", semctl(id, 0, GETVAL, 0));

    let waiter = process::spawn(|| {
        let result = semop(id, &mut [op(0, -1, 0)]);
        i32::from(result == 0 || errno() != libc::EIDRM)
    });
    while semctl(id, 0, GETNCNT, 0) != 1 {
        process::sleep_ms(5);
    }
    check_eq!(semctl(id, 0, libc::IPC_RMID, 0), 0);
    println!("removed under a waiter: {}", process::wait(waiter));
    println!("afterwards: {}", name(semctl(id, 0, GETVAL, 0)));
}

#[repr(C)]
struct Message {
    kind: i64,
    text: [u8; 64],
}

fn send(id: i32, kind: i64, text: &[u8], flags: i32) -> i64 {
    let mut message = Message { kind, text: [0; 64] };
    message.text[..text.len()].copy_from_slice(text);
    // SAFETY: the message is live and at least this long.
    i64::from(unsafe { libc::msgsnd(id, (&raw const message).cast(), text.len(), flags) })
}

fn receive(id: i32, size: usize, kind: i64, flags: i32) -> String {
    let mut message = Message { kind: 0, text: [0; 64] };
    // SAFETY: the message has room for what is asked for.
    let got = unsafe { libc::msgrcv(id, (&raw mut message).cast(), size, kind, flags) };
    match usize::try_from(got) {
        Ok(got) => format!("{} {}", message.kind, String::from_utf8_lossy(&message.text[..got])),
        Err(_) => errno_name(errno()),
    }
}

fn messages() {
    const EXCEPT: i32 = 0o20000;
    // SAFETY: no pointer.
    let id = unsafe { libc::msgget(libc::IPC_PRIVATE, 0o600) };
    check!(id >= 0, "msgget failed: {}", errno_name(errno()));
    for (kind, text) in [(3, "three"), (1, "one"), (2, "two"), (1, "another one")] {
        check_eq!(send(id, kind, text.as_bytes(), 0), 0);
    }
    println!("kind 2: {}", receive(id, 64, 2, 0));
    println!("up to 2: {}", receive(id, 64, -2, 0));
    println!("not 3: {}", receive(id, 64, 3, EXCEPT));
    println!("too long: {}", receive(id, 2, 0, 0));
    println!("cut: {}", receive(id, 2, 0, libc::MSG_NOERROR));
    println!("none left: {}", receive(id, 64, 0, libc::IPC_NOWAIT));
    println!("kind 0: {}", name(send(id, 0, b"x", 0)));
    let reader = process::spawn(|| i32::from(receive(id, 64, 0, 0) != "9 late"));
    process::sleep_ms(20);
    check_eq!(send(id, 9, b"late", 0), 0);
    println!("a waiting reader: {}", process::wait(reader));
    let mut full = 0;
    while send(id, 1, &[b'x'; 64], libc::IPC_NOWAIT) == 0 {
        full += 1;
    }
    println!("full after {full} messages: {}", errno_name(errno()));
    // SAFETY: removing takes no pointer.
    check_eq!(unsafe { libc::msgctl(id, libc::IPC_RMID, std::ptr::null_mut()) }, 0);
    println!("afterwards: {}", receive(id, 64, 0, libc::IPC_NOWAIT));
}

fn setting(file: &str) -> String {
    fs::read_to_string(format!("/proc/sys/kernel/{file}")).unwrap_or_default().trim().into()
}

/// Changes a setting for as long as `body` runs. Whoever may not change it is told by `false`.
fn with_setting(file: &str, value: &str, body: impl FnOnce()) -> bool {
    let before = setting(file);
    let path = format!("/proc/sys/kernel/{file}");
    if fs::write(&path, value).is_err() {
        return false;
    }
    body();
    check!(fs::write(&path, before).is_ok(), "{file} cannot be set back");
    true
}

fn shmget(bytes: usize) -> i64 {
    // SAFETY: no pointer.
    i64::from(unsafe { libc::shmget(libc::IPC_PRIVATE, bytes, 0o600) })
}

fn shm_remove(id: i64) {
    // SAFETY: removing takes no pointer.
    check_eq!(unsafe { libc::shmctl(id as i32, libc::IPC_RMID, std::ptr::null_mut()) }, 0);
}

fn limits() {
    let changed = with_setting("shmmax", "8192", || {
        let id = shmget(8192);
        check!(id >= 0, "a segment of shmmax bytes: {}", errno_name(errno()));
        shm_remove(id);
        check_eq!(shmget(8193), -1);
        check_eq!(errno(), libc::EINVAL);
    });
    let changed = changed
        && with_setting("shmmni", "0", || {
            check_eq!(shmget(4096), -1);
            check_eq!(errno(), libc::ENOSPC);
        });
    // An identifier that is asked for: place 77 in the table, or the next free one above it.
    let wanted = (5 << 15) + 77;
    let changed = changed && fs::write("/proc/sys/kernel/shm_next_id", wanted.to_string()).is_ok();
    if changed {
        let id = shmget(4096);
        check_eq!(id, wanted);
        shm_remove(id);
        check_eq!(setting("shm_next_id"), "-1");
    }
    if !changed {
        eprintln!("SKIP: /proc/sys/kernel cannot be changed here");
    }
    println!("limits of shared memory are obeyed");
}

fn main() {
    semaphores();
    messages();
    limits();
}
