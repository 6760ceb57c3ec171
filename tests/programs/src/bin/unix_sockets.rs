//! Unix stream sockets: names, connections, ends, errors, what is asked of them, and descriptors that travel; with poll
//! and edge-triggered epoll on them.

use ptshare_programs::{check, check_eq, errno, errno_name, process};
use std::ffi::CString;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::{UnixListener, UnixStream};

const PATH: &str = "/tmp/unix_sockets.sock";

/// A system call's answer, with the error's name.
fn answer(value: isize) -> String {
    if value < 0 { errno_name(errno()) } else { value.to_string() }
}

fn poll(fd: RawFd) -> String {
    let mut entry = libc::pollfd { fd, events: libc::POLLIN | libc::POLLOUT | libc::POLLRDHUP, revents: 0 };
    // SAFETY: one live entry.
    unsafe { libc::poll(&mut entry, 1, 0) };
    format!("{:#x}", entry.revents)
}

fn connections() {
    let _ = std::fs::remove_file(PATH);
    println!("nobody there: {:?}", UnixStream::connect(PATH).map(|_| ()).map_err(|e| e.raw_os_error()));
    let listener = UnixListener::bind(PATH).unwrap_or_else(|error| {
        eprintln!("bind: {error}");
        process::leave(1)
    });
    println!("taken: {:?}", UnixListener::bind(PATH).map(|_| ()).map_err(|e| e.raw_os_error()));
    println!("idle listener: {}", poll(listener.as_raw_fd()));
    let child = process::spawn(|| {
        let Ok(mut stream) = UnixStream::connect(PATH) else { return 1 };
        let bytes: Vec<u8> = (0..300_000).map(|i| (i * 7 % 251) as u8).collect();
        if stream.write_all(&bytes).is_err() || stream.shutdown(std::net::Shutdown::Write).is_err() {
            return 2;
        }
        let mut back = Vec::new();
        match stream.read_to_end(&mut back) {
            Ok(n) if back == b"thanks" => n as i32,
            _ => 3,
        }
    });
    let Ok((mut stream, _)) = listener.accept() else { process::leave(1) };
    let mut got = Vec::new();
    check!(stream.read_to_end(&mut got).is_ok());
    check!(got.iter().enumerate().all(|(i, &byte)| byte == (i * 7 % 251) as u8), "bytes changed on the way");
    println!("received: {}", got.len());
    check!(stream.write_all(b"thanks").is_ok());
    drop(stream);
    println!("client: {}", process::wait(child));

    // Nobody accepts: the connection stands, and ends with the listener.
    let Ok(mut waiting) = UnixStream::connect(PATH) else { process::leave(1) };
    println!("listener with one waiting: {}", poll(listener.as_raw_fd()));
    println!("early: {:?}", waiting.write(b"early").ok());
    drop(listener);
    println!("gone: {}", poll(waiting.as_raw_fd()));
    println!("refused: {:?}", UnixStream::connect(PATH).map(|_| ()).map_err(|e| e.raw_os_error()));
    let _ = std::fs::remove_file(PATH);
}

fn ends() {
    let Ok((mut one, mut two)) = UnixStream::pair() else { process::leave(1) };
    println!("fresh: {}", poll(one.as_raw_fd()));
    check!(one.write_all(b"hello").is_ok());
    println!("with data: {}", poll(two.as_raw_fd()));
    let mut buffer = [0u8; 16];
    // SAFETY: `buffer` has room for what is asked for.
    let mut recv =
        |fd: RawFd, len: usize, flags: i32| unsafe { libc::recv(fd, buffer.as_mut_ptr().cast(), len, flags) };
    println!("peek: {}", answer(recv(two.as_raw_fd(), 2, libc::MSG_PEEK)));
    println!("all: {}", answer(recv(two.as_raw_fd(), 5, libc::MSG_WAITALL)));
    println!("nothing: {}", answer(recv(two.as_raw_fd(), 5, libc::MSG_DONTWAIT)));
    check!(one.shutdown(std::net::Shutdown::Write).is_ok());
    println!("half closed: {} {}", poll(one.as_raw_fd()), poll(two.as_raw_fd()));
    println!("end: {}", answer(recv(two.as_raw_fd(), 5, 0)));
    // SAFETY: one readable byte.
    let sent = unsafe { libc::send(one.as_raw_fd(), c"x".as_ptr().cast(), 1, libc::MSG_NOSIGNAL) };
    println!("after shutdown: {}", answer(sent));
    check!(two.write_all(b"back").is_ok());
    check_eq!(one.read(&mut [0u8; 8]).ok(), Some(4));
    drop(one);
    println!("both closed: {}", poll(two.as_raw_fd()));
    let mut value = 0i32;
    let mut len = 4u32;
    // SAFETY: `value` and `len` are live.
    let kind = unsafe {
        let value: *mut i32 = &mut value;
        libc::getsockopt(two.as_raw_fd(), libc::SOL_SOCKET, libc::SO_TYPE, value.cast(), &mut len)
    };
    println!("type: {kind} {value} {len}");
}

/// Sends a descriptor along with one byte.
fn send_descriptor(socket: RawFd, fd: RawFd) -> isize {
    let mut byte = *b"d";
    let mut control = [0u64; 4];
    let mut part = libc::iovec { iov_base: byte.as_mut_ptr().cast(), iov_len: 1 };
    // SAFETY: an all-zero msghdr is valid; the pointers put into it outlive the call, and the control data fit.
    unsafe {
        let mut message: libc::msghdr = std::mem::zeroed();
        message.msg_iov = &mut part;
        message.msg_iovlen = 1;
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = libc::CMSG_SPACE(4) as usize;
        let header = libc::CMSG_FIRSTHDR(&message);
        (*header).cmsg_level = libc::SOL_SOCKET;
        (*header).cmsg_type = libc::SCM_RIGHTS;
        (*header).cmsg_len = libc::CMSG_LEN(4) as usize;
        libc::CMSG_DATA(header).cast::<RawFd>().write_unaligned(fd);
        libc::sendmsg(socket, &message, 0)
    }
}

/// Receives a byte and the descriptor that comes with it.
fn receive_descriptor(socket: RawFd) -> Option<RawFd> {
    let mut byte = [0u8; 8];
    let mut control = [0u64; 4];
    let mut part = libc::iovec { iov_base: byte.as_mut_ptr().cast(), iov_len: byte.len() };
    // SAFETY: as in `send_descriptor`; the header that is looked at was written by the kernel.
    unsafe {
        let mut message: libc::msghdr = std::mem::zeroed();
        message.msg_iov = &mut part;
        message.msg_iovlen = 1;
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = size_of_val(&control);
        let got = libc::recvmsg(socket, &mut message, 0);
        println!("message of {got}, control {}", message.msg_controllen);
        let header = libc::CMSG_FIRSTHDR(&message);
        (!header.is_null()).then(|| libc::CMSG_DATA(header).cast::<RawFd>().read_unaligned())
    }
}

fn descriptors() {
    let Ok((one, mut two)) = UnixStream::pair() else { process::leave(1) };
    let mut ends = [0; 2];
    // SAFETY: room for two descriptors.
    check_eq!(unsafe { libc::pipe(ends.as_mut_ptr()) }, 0);
    check_eq!(send_descriptor(two.as_raw_fd(), ends[1]), 1);
    check!(two.write_all(b"more").is_ok());
    // Only the one that travels is left of the writing end.
    // SAFETY: no pointer; the descriptor is ours.
    unsafe { libc::close(ends[1]) };
    println!("pipe whose end travels: {}", poll(ends[0]));
    let Some(arrived) = receive_descriptor(one.as_raw_fd()) else { process::leave(1) };
    // SAFETY: one readable byte.
    check_eq!(unsafe { libc::write(arrived, c"y".as_ptr().cast(), 1) }, 1);
    println!("written through it: {}", poll(ends[0]));
    // SAFETY: no pointer; the descriptor is ours.
    unsafe { libc::close(arrived) };
    println!("rest: {:?}", (&one).read(&mut [0u8; 16]).ok());

    // Sockets in sockets, deeper than any stack: closing the outermost closes all.
    let mut inner: Option<UnixStream> = None;
    for _ in 0..500 {
        let Ok((keep, send)) = UnixStream::pair() else { process::leave(1) };
        if let Some(inner) = inner {
            check_eq!(send_descriptor(send.as_raw_fd(), inner.as_raw_fd()), 1);
        }
        inner = Some(keep);
    }
    drop(inner);
}

/// Edge-triggered: one report an arrival, also where something was there before; and rings of sets are refused.
fn edges() {
    let Ok((one, mut two)) = UnixStream::pair() else { process::leave(1) };
    // SAFETY: no pointers.
    let (set, other) = unsafe { (libc::epoll_create1(0), libc::epoll_create1(0)) };
    let add = |set: RawFd, fd: RawFd, events: i32| {
        let mut event = libc::epoll_event { events: events as u32, u64: 7 };
        // SAFETY: a live event.
        answer(unsafe { libc::epoll_ctl(set, libc::EPOLL_CTL_ADD, fd, &mut event) } as isize)
    };
    let wait = |set: RawFd| {
        let mut event = libc::epoll_event { events: 0, u64: 0 };
        // SAFETY: room for one event.
        unsafe { libc::epoll_wait(set, &mut event, 1, 0) }
    };
    check_eq!(add(set, one.as_raw_fd(), libc::EPOLLIN | libc::EPOLLET), "0");
    let before = wait(set);
    check!(two.write_all(b"a").is_ok());
    let (first, again) = (wait(set), wait(set));
    check!(two.write_all(b"b").is_ok());
    let (second, again_then) = (wait(set), wait(set));
    println!("edges: {before} {first} {again} {second} {again_then}");
    println!("ring: {} {}", add(other, set, libc::EPOLLIN), add(set, other, libc::EPOLLIN));
    println!("set in set: {}", wait(other));
    // SAFETY: a path that ends with a NUL.
    let file = unsafe { libc::open(CString::from(c"/dev/zero").as_ptr(), libc::O_RDONLY) };
    println!("file: {}", add(set, file, libc::EPOLLIN));
}

fn main() {
    connections();
    ends();
    descriptors();
    edges();
}
