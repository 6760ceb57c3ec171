//! System calls: Unix stream sockets: argument decoding; the work is in `fs::socket`. There is no network.

mod message;
mod options;

pub use message::{recvfrom, recvmsg, sendmsg, sendto};
pub use options::{getsockopt, setsockopt};

use super::fd::install_two;
use super::file::{file, files};
use super::{Args, SysErr, SysResult};
use crate::fs::File;
use crate::fs::file::{O_CLOEXEC, O_NONBLOCK, Ops};
use crate::fs::socket::{Socket, name};
use alloc::sync::Arc;
use alloc::vec::Vec;
use ptshare_abi::Errno;
use ptshare_machine::trap::TrapFrame;
use ptshare_machine::uaccess;

/// Address family.
const AF_UNIX: u16 = 1;
/// Socket type.
const SOCK_STREAM: u32 = 1;
/// Bytes of the largest `struct sockaddr_un`.
const ADDRESS_MAX: u64 = 110;
/// SHUT_RD, SHUT_WR, SHUT_RDWR.
const SHUT_RDWR: u32 = 2;

/// The caller's file behind a descriptor, and the socket that it is.
///
/// # Errors
/// EBADF, ENOTSOCK.
fn socket_of(fd: u64) -> Result<(Arc<File>, Arc<Socket>), Errno> {
    let file = file(fd)?;
    match &file.ops {
        Ops::Socket(socket) => {
            let socket = socket.clone();
            Ok((file, socket))
        }
        _ => Err(Errno::ENOTSOCK),
    }
}

/// Checks what kind of socket is asked for. Gives O_NONBLOCK and O_CLOEXEC as asked.
fn check_kind(domain: u64, kind: u64, protocol: u64) -> Result<(u32, bool), Errno> {
    let kind = kind as u32;
    if kind & !(0xf | O_CLOEXEC | O_NONBLOCK) != 0 {
        return Err(Errno::EINVAL);
    }
    if domain as u32 != u32::from(AF_UNIX) {
        return Err(Errno::EAFNOSUPPORT);
    }
    if protocol as u32 > 1 {
        return Err(Errno::EPROTONOSUPPORT);
    }
    if kind & 0xf != SOCK_STREAM {
        return Err(Errno::ESOCKTNOSUPPORT);
    }
    Ok((kind & O_NONBLOCK, kind & O_CLOEXEC != 0))
}

/// socket(2).
pub fn socket(a: &Args, _: &mut TrapFrame) -> SysResult {
    let (flags, cloexec) = check_kind(a[0], a[1], a[2])?;
    crate::heap_room()?;
    Ok(files().install(Socket::new().into_file(flags), cloexec)?)
}

/// socketpair(2).
pub fn socketpair(a: &Args, _: &mut TrapFrame) -> SysResult {
    let (flags, cloexec) = check_kind(a[0], a[1], a[2])?;
    crate::heap_room()?;
    let (one, two) = Socket::pair();
    install_two(a[3], one.into_file(flags), two.into_file(flags), cloexec)
}

/// Reads a `struct sockaddr_un`. Gives what `sun_path` says: a path without its NUL, an abstract name from its NUL on, or
/// nothing.
///
/// # Errors
/// EFAULT; EINVAL for a length or family that cannot be.
fn read_address(at: u64, len: u64) -> Result<Vec<u8>, SysErr> {
    let len = len as i32 as i64;
    if !(2..=ADDRESS_MAX as i64).contains(&len) {
        return Err(Errno::EINVAL.into());
    }
    let mut bytes = [0u8; ADDRESS_MAX as usize];
    let bytes = &mut bytes[..len as usize];
    uaccess::copy_in(bytes, at)?;
    if u16::from_le_bytes([bytes[0], bytes[1]]) != AF_UNIX {
        return Err(Errno::EINVAL.into());
    }
    let path = &bytes[2..];
    let end = match path.first() {
        Some(0) | None => path.len(),
        Some(_) => path.iter().position(|&b| b == 0).unwrap_or(path.len()),
    };
    Ok(path[..end].to_vec())
}

/// Writes an address (`name` as a socket keeps it) as far as it fits, and its whole length.
fn write_address(name: &[u8], at: u64, len_at: u64) -> Result<(), SysErr> {
    let room: i32 = uaccess::read(len_at)?;
    let room = usize::try_from(room).map_err(|_| Errno::EINVAL)?;
    let mut bytes = AF_UNIX.to_le_bytes().to_vec();
    bytes.extend_from_slice(name);
    uaccess::copy_out(at, &bytes[..room.min(bytes.len())])?;
    uaccess::write(len_at, &(bytes.len() as u32))?;
    Ok(())
}

/// bind(2).
pub fn bind(a: &Args, _: &mut TrapFrame) -> SysResult {
    let (_, socket) = socket_of(a[0])?;
    name::bind(&socket, read_address(a[1], a[2])?)?;
    Ok(0)
}

/// listen(2).
pub fn listen(a: &Args, _: &mut TrapFrame) -> SysResult {
    let (_, socket) = socket_of(a[0])?;
    socket.listen(a[1] as u32)?;
    Ok(0)
}

/// connect(2).
pub fn connect(a: &Args, _: &mut TrapFrame) -> SysResult {
    let (file, socket) = socket_of(a[0])?;
    let address = read_address(a[1], a[2])?;
    if address.is_empty() {
        return Err(Errno::EINVAL.into());
    }
    crate::heap_room()?;
    let listener = name::find(&address)?;
    socket.connect(&listener, file.flags() & O_NONBLOCK != 0)?;
    Ok(0)
}

fn accept_with(fd: u64, at: u64, len_at: u64, flags: u32) -> SysResult {
    if flags & !(O_CLOEXEC | O_NONBLOCK) != 0 {
        return Err(Errno::EINVAL.into());
    }
    let (file, listener) = socket_of(fd)?;
    crate::heap_room()?;
    let socket = listener.accept(file.flags() & O_NONBLOCK != 0)?;
    let peer = socket.peer_name().unwrap_or_default();
    let accepted = socket.into_file(flags & O_NONBLOCK);
    if at != 0 {
        write_address(&peer, at, len_at)?;
    }
    Ok(files().install(accepted, flags & O_CLOEXEC != 0)?)
}

/// accept(2).
pub fn accept(a: &Args, _: &mut TrapFrame) -> SysResult {
    accept_with(a[0], a[1], a[2], 0)
}

/// accept4(2).
pub fn accept4(a: &Args, _: &mut TrapFrame) -> SysResult {
    accept_with(a[0], a[1], a[2], a[3] as u32)
}

/// getsockname(2).
pub fn getsockname(a: &Args, _: &mut TrapFrame) -> SysResult {
    let (_, socket) = socket_of(a[0])?;
    write_address(&socket.name(), a[1], a[2])?;
    Ok(0)
}

/// getpeername(2).
pub fn getpeername(a: &Args, _: &mut TrapFrame) -> SysResult {
    let (_, socket) = socket_of(a[0])?;
    write_address(&socket.peer_name()?, a[1], a[2])?;
    Ok(0)
}

/// shutdown(2).
pub fn shutdown(a: &Args, _: &mut TrapFrame) -> SysResult {
    let (_, socket) = socket_of(a[0])?;
    let how = a[1] as u32;
    if how > SHUT_RDWR {
        return Err(Errno::EINVAL.into());
    }
    socket.shutdown(how != 1, how != 0);
    Ok(0)
}
