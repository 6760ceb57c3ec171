//! getsockopt, setsockopt.

use super::{AF_UNIX, SOCK_STREAM, socket_of};
use crate::syscall::{Args, SysResult};
use ptshare_abi::Errno;
use ptshare_machine::trap::TrapFrame;
use ptshare_machine::uaccess;

const SOL_SOCKET: u32 = 1;
const SO_REUSEADDR: u32 = 2;
const SO_TYPE: u32 = 3;
const SO_ERROR: u32 = 4;
const SO_SNDBUF: u32 = 7;
const SO_RCVBUF: u32 = 8;
const SO_KEEPALIVE: u32 = 9;
const SO_PEERCRED: u32 = 17;
const SO_ACCEPTCONN: u32 = 30;
const SO_PROTOCOL: u32 = 38;
const SO_DOMAIN: u32 = 39;
/// Bytes that a direction holds (net.core.wmem_default).
const BUFFER_BYTES: u32 = 52 * 4096;

/// getsockopt(2).
pub fn getsockopt(a: &Args, _: &mut TrapFrame) -> SysResult {
    let (_, socket) = socket_of(a[0])?;
    let [level, option] = [a[1] as u32, a[2] as u32];
    let room: i32 = uaccess::read(a[4])?;
    let room = usize::try_from(room).map_err(|_| Errno::EINVAL)?;
    if level != SOL_SOCKET {
        return Err(Errno::EOPNOTSUPP.into());
    }
    let mut bytes = [0u8; 12];
    let mut len = 4;
    let value = match option {
        SO_TYPE => SOCK_STREAM,
        SO_DOMAIN => u32::from(AF_UNIX),
        SO_PROTOCOL => 0,
        SO_ERROR => socket.take_error().map_or(0, |errno| u32::from(errno.number())),
        SO_ACCEPTCONN => u32::from(socket.is_listening()),
        SO_SNDBUF | SO_RCVBUF => BUFFER_BYTES,
        SO_PEERCRED => {
            let peer = socket.peer();
            bytes[4..8].copy_from_slice(&peer.uid.to_le_bytes());
            bytes[8..].copy_from_slice(&peer.gid.to_le_bytes());
            len = 12;
            peer.pid
        }
        _ => return Err(Errno::ENOPROTOOPT.into()),
    };
    bytes[..4].copy_from_slice(&value.to_le_bytes());
    let len = room.min(len);
    uaccess::copy_out(a[3], &bytes[..len])?;
    uaccess::write(a[4], &(len as u32))?;
    Ok(0)
}

/// setsockopt(2): what asks for speed, or is about networks, is heard; the rest is not known.
pub fn setsockopt(a: &Args, _: &mut TrapFrame) -> SysResult {
    socket_of(a[0])?;
    if a[1] as u32 != SOL_SOCKET {
        return Err(Errno::EOPNOTSUPP.into());
    }
    if (a[4] as i32) < 4 {
        return Err(Errno::EINVAL.into());
    }
    let _: u32 = uaccess::read(a[3])?;
    match a[2] as u32 {
        SO_REUSEADDR | SO_KEEPALIVE | SO_SNDBUF | SO_RCVBUF => Ok(0),
        _ => Err(Errno::ENOPROTOOPT.into()),
    }
}
