//! Pipes and poll: readiness, hang-up, capacity, errors, and a bulk transfer between processes.

use ptshare_programs::{check, check_eq, errno, errno_name, judge, now_ns, process};

fn pipe(flags: i32) -> (i32, i32) {
    let mut ends = [0; 2];
    // SAFETY: room for two descriptors.
    check_eq!(unsafe { libc::pipe2(ends.as_mut_ptr(), flags) }, 0);
    (ends[0], ends[1])
}

fn close(fd: i32) {
    // SAFETY: no pointer; the descriptor is ours.
    unsafe { libc::close(fd) };
}

fn write(fd: i32, bytes: &[u8]) -> isize {
    // SAFETY: the bytes are readable.
    unsafe { libc::write(fd, bytes.as_ptr().cast(), bytes.len()) }
}

fn read(fd: i32, bytes: &mut [u8]) -> isize {
    // SAFETY: the bytes are writable.
    unsafe { libc::read(fd, bytes.as_mut_ptr().cast(), bytes.len()) }
}

/// poll(2) of one descriptor: what it answers, and the events that it names.
fn poll(fd: i32, events: i16, timeout_ms: i32) -> String {
    let mut entry = libc::pollfd { fd, events, revents: 0 };
    // SAFETY: one live entry.
    let result = unsafe { libc::poll(&mut entry, 1, timeout_ms) };
    let names = [
        (libc::POLLIN, "IN"),
        (libc::POLLOUT, "OUT"),
        (libc::POLLERR, "ERR"),
        (libc::POLLHUP, "HUP"),
        (libc::POLLNVAL, "NVAL"),
    ];
    let set: Vec<&str> = names.iter().filter(|n| entry.revents & n.0 != 0).map(|n| n.1).collect();
    format!("{result} [{}]", set.join(" "))
}

fn main() {
    let (r, w) = pipe(0);
    println!("empty: {}", poll(r, libc::POLLIN, 0));
    let start = now_ns();
    println!("still empty: {}", poll(r, libc::POLLIN, 30));
    check!(now_ns() - start >= 29_000_000, "poll did not wait");
    println!("write end: {}", poll(w, libc::POLLOUT, -1));
    check_eq!(write(w, b"abc"), 3);
    println!("with data: {}", poll(r, libc::POLLIN, -1));
    let mut buffer = [0u8; 8];
    check_eq!(read(r, &mut buffer), 3);
    close(w);
    println!("hung up: {}", poll(r, libc::POLLIN, -1));
    check_eq!(read(r, &mut buffer), 0);
    close(r);
    println!("closed: {}", poll(r, libc::POLLIN, -1));

    let (r, w) = pipe(libc::O_NONBLOCK);
    println!("read: {} {}", read(r, &mut buffer), errno_name(errno()));
    let mut taken = 0;
    let block = [7u8; 4096];
    loop {
        match write(w, &block) {
            n if n > 0 => taken += n,
            _ => break,
        }
    }
    println!("capacity: {taken}, then {}", errno_name(errno()));
    println!("full: {}", poll(w, libc::POLLOUT, 0));
    close(r);
    println!("no reader: {}", poll(w, libc::POLLOUT, 0));
    let status = process::in_child(|| {
        // SAFETY: the default action runs no code of ours.
        unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
        write(w, b"x") as i32
    });
    println!("writing without a reader: {status}");
    // SAFETY: ignoring a signal runs no code of ours.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
    println!("ignored: {} {}", write(w, b"x"), errno_name(errno()));
    close(w);

    // 300 kB through a pipe of 64 KiB: both sides must block and be woken.
    let (r, w) = pipe(0);
    const TOTAL: usize = 300_000;
    let child = process::spawn(|| {
        close(r);
        let bytes: Vec<u8> = (0..TOTAL).map(|i| (i * 7 % 251) as u8).collect();
        let mut sent = 0;
        while sent < TOTAL {
            let n = write(w, &bytes[sent..TOTAL.min(sent + 50_000)]);
            check!(n > 0, "write failed: {}", errno());
            sent += n as usize;
        }
        0
    });
    close(w);
    let mut got = 0;
    let mut buffer = vec![0u8; 20_000];
    loop {
        let n = read(r, &mut buffer);
        check!(n >= 0, "read failed: {}", errno());
        if n == 0 {
            break;
        }
        for &byte in &buffer[..n as usize] {
            check!(byte == (got * 7 % 251) as u8, "byte {got} is wrong");
            got += 1;
        }
    }
    println!("transferred: {got}; writer: {}", process::wait(child));

    // A child writes after a while; poll over two pipes finds the right one.
    let (r1, _w1) = pipe(0);
    let (r2, w2) = pipe(0);
    let child = process::spawn(|| {
        process::sleep_ms(30);
        write(w2, b"x") as i32
    });
    let mut entries = [
        libc::pollfd { fd: r1, events: libc::POLLIN, revents: 0 },
        libc::pollfd { fd: r2, events: libc::POLLIN, revents: 0 },
    ];
    // SAFETY: two live entries.
    let ready = unsafe { libc::poll(entries.as_mut_ptr(), 2, 10_000) };
    println!("ready: {ready}, first {}, second {}", entries[0].revents, entries[1].revents);
    println!("child: {}", process::wait(child));
    judge::checkpoint("pipes");
}
