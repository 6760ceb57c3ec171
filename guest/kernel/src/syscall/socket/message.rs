//! sendto, recvfrom, sendmsg, recvmsg.

use super::{Socket, socket_of};
use crate::fs::File;
use crate::fs::file::O_NONBLOCK;
use crate::fs::io::{Sink, Source};
use crate::fs::socket::{Peer, Rights};
use crate::syscall::file::{count, files, vectors};
use crate::syscall::{Args, SysErr, SysResult};
use alloc::sync::Arc;
use alloc::vec::Vec;
use ptshare_abi::Errno;
use ptshare_machine::trap::TrapFrame;
use ptshare_machine::uaccess;

const MSG_OOB: u32 = 1;
const MSG_PEEK: u32 = 2;
const MSG_CTRUNC: u32 = 8;
const MSG_DONTWAIT: u32 = 0x40;
const MSG_WAITALL: u32 = 0x100;
const MSG_NOSIGNAL: u32 = 0x4000;
const MSG_CMSG_CLOEXEC: u32 = 0x4000_0000;

const SOL_SOCKET: u32 = 1;
const SCM_RIGHTS: u32 = 1;
const SCM_CREDENTIALS: u32 = 2;
/// Bytes of `struct cmsghdr`.
const HEADER: u64 = 16;
/// Most bytes of control data (net.core.optmem_max).
const CONTROL_MAX: u64 = 131_072;

/// `struct msghdr`.
struct Header {
    name: u64,
    name_len: u32,
    iov: u64,
    iov_len: u64,
    control: u64,
    control_len: u64,
}

impl Header {
    fn read(at: u64) -> Result<Header, SysErr> {
        let [name, name_len, iov, iov_len, control, control_len, _]: [u64; 7] = uaccess::read(at)?;
        Ok(Header { name, name_len: name_len as u32, iov, iov_len, control, control_len })
    }
}

fn waits_not(file: &File, flags: u32) -> bool {
    flags & MSG_DONTWAIT != 0 || file.flags() & O_NONBLOCK != 0
}

/// A connected stream has no other address to send to.
fn check_no_address(socket: &Socket, given: bool) -> Result<(), Errno> {
    match (given, socket.is_connected()) {
        (true, true) => Err(Errno::EISCONN),
        (true, false) => Err(Errno::EOPNOTSUPP),
        _ => Ok(()),
    }
}

/// sendto(2).
pub fn sendto(a: &Args, _: &mut TrapFrame) -> SysResult {
    let (file, socket) = socket_of(a[0])?;
    let flags = a[3] as u32;
    check_no_address(&socket, a[4] != 0 && a[5] as u32 != 0)?;
    if flags & MSG_OOB != 0 {
        return Err(Errno::EOPNOTSUPP.into());
    }
    let mut source = Source::user(a[1], count(a[2]));
    socket.send(&mut source, waits_not(&file, flags), flags & MSG_NOSIGNAL != 0, None)
}

/// What control data ask for: the files of SCM_RIGHTS.
///
/// # Errors
/// EINVAL for what cannot be; EBADF; EPERM for others' credentials; ETOOMANYREFS.
fn read_control(at: u64, len: u64) -> Result<Option<Rights>, SysErr> {
    if len > CONTROL_MAX {
        return Err(Errno::EINVAL.into());
    }
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(len as usize).map_err(|_| Errno::ENOMEM)?;
    bytes.resize(len as usize, 0);
    uaccess::copy_in(&mut bytes, at)?;
    let word = |at: usize| bytes.get(at..at + 4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]));
    let mut found: Vec<Arc<File>> = Vec::new();
    let mut any = false;
    let mut pos = 0usize;
    while pos + HEADER as usize <= bytes.len() {
        let size = u64::from(word(pos).unwrap_or(0)) | u64::from(word(pos + 4).unwrap_or(0)) << 32;
        let (level, kind) = (word(pos + 8).unwrap_or(0), word(pos + 12).unwrap_or(0));
        if size < HEADER || size > (bytes.len() - pos) as u64 {
            return Err(Errno::EINVAL.into());
        }
        let data = pos + HEADER as usize;
        let words = (size - HEADER) as usize / 4;
        match (level, kind) {
            (SOL_SOCKET, SCM_RIGHTS) => {
                any = true;
                for i in 0..words {
                    found.push(files().get(word(data + 4 * i).unwrap_or(u32::MAX) as i32)?);
                }
            }
            (SOL_SOCKET, SCM_CREDENTIALS) if words == 3 => {
                let me = Peer::caller();
                let said = [word(data), word(data + 4), word(data + 8)];
                if said != [Some(me.pid), Some(me.uid), Some(me.gid)] {
                    return Err(Errno::EPERM.into());
                }
            }
            (SOL_SOCKET, _) => return Err(Errno::EINVAL.into()),
            _ => {}
        }
        pos += (size as usize).next_multiple_of(8);
    }
    if any { Ok(Some(Rights::new(found)?)) } else { Ok(None) }
}

/// sendmsg(2).
pub fn sendmsg(a: &Args, _: &mut TrapFrame) -> SysResult {
    let (file, socket) = socket_of(a[0])?;
    let flags = a[2] as u32;
    let header = Header::read(a[1])?;
    check_no_address(&socket, header.name != 0 && header.name_len != 0)?;
    if flags & MSG_OOB != 0 {
        return Err(Errno::EOPNOTSUPP.into());
    }
    let parts = vectors(header.iov, header.iov_len)?;
    let mut rights = match header.control {
        0 => None,
        at => read_control(at, header.control_len)?,
    };
    let (nonblock, quiet) = (waits_not(&file, flags), flags & MSG_NOSIGNAL != 0);
    let mut done = 0;
    for (base, len) in parts.into_iter().filter(|(_, len)| *len > 0) {
        match socket.send(&mut Source::user(base, len), nonblock, quiet, rights.take()) {
            Ok(part) => {
                done += part;
                if part < len {
                    break;
                }
            }
            Err(error) if done == 0 => return Err(error),
            Err(_) => break,
        }
    }
    Ok(done)
}

/// Reads into one range; with MSG_PEEK the bytes stay.
fn receive_part(
    socket: &Socket,
    (base, len): (u64, u64),
    flags: u32,
    nonblock: bool,
    rights: Option<&mut Vec<Rights>>,
) -> SysResult {
    let mut sink = Sink::user(base, len);
    if flags & MSG_PEEK == 0 {
        return socket.receive(&mut sink, nonblock, rights);
    }
    let bytes = socket.peek(len, nonblock)?;
    Ok(sink.put(&bytes)?)
}

/// Reads into ranges until no more waits (or, with MSG_WAITALL, until they are full).
fn receive(
    socket: &Socket,
    parts: &[(u64, u64)],
    flags: u32,
    nonblock: bool,
    mut rights: Option<&mut Vec<Rights>>,
) -> SysResult {
    if flags & MSG_OOB != 0 {
        return Err(Errno::EINVAL.into());
    }
    let all = flags & (MSG_WAITALL | MSG_PEEK) == MSG_WAITALL;
    let mut done = 0;
    for &(base, len) in parts.iter().filter(|(_, len)| *len > 0) {
        let mut at = 0;
        while at < len {
            let nonblock = nonblock || done > 0 && !all;
            match receive_part(socket, (base + at, len - at), flags, nonblock, rights.as_deref_mut()) {
                Ok(0) => return Ok(done),
                Ok(part) => {
                    done += part;
                    at += part;
                    // What comes with other descriptors, or only waits to be looked at, is another message.
                    let stop = rights.as_ref().is_some_and(|rights| !rights.is_empty());
                    if stop || flags & MSG_PEEK != 0 || at < len && !all {
                        return Ok(done);
                    }
                }
                Err(error) if done == 0 => return Err(error),
                Err(_) => return Ok(done),
            }
        }
    }
    Ok(done)
}

/// recvfrom(2): a stream's messages have no address.
pub fn recvfrom(a: &Args, _: &mut TrapFrame) -> SysResult {
    let (file, socket) = socket_of(a[0])?;
    let flags = a[3] as u32;
    let done = receive(&socket, &[(a[1], count(a[2]))], flags, waits_not(&file, flags), None)?;
    if a[4] != 0 && a[5] != 0 {
        uaccess::write(a[5], &0_u32)?;
    }
    Ok(done)
}

/// Gives the files descriptors, and writes the control data. Gives their length, and MSG_CTRUNC where they did not fit.
fn write_control(header: &Header, rights: Vec<Rights>, cloexec: bool) -> Result<(u64, u32), SysErr> {
    let arrived: Vec<Arc<File>> = rights.into_iter().flat_map(Rights::take).collect();
    if arrived.is_empty() {
        return Ok((0, 0));
    }
    let room = (header.control_len.saturating_sub(HEADER) / 4) as usize;
    let fit = if header.control == 0 { 0 } else { room.min(arrived.len()) };
    let flags = if fit < arrived.len() { MSG_CTRUNC } else { 0 };
    if fit == 0 {
        return Ok((0, flags));
    }
    let size = HEADER + 4 * fit as u64;
    let mut bytes = size.to_le_bytes().to_vec();
    bytes.extend_from_slice(&SOL_SOCKET.to_le_bytes());
    bytes.extend_from_slice(&SCM_RIGHTS.to_le_bytes());
    for file in arrived.into_iter().take(fit) {
        let fd = files().install(file, cloexec)?;
        bytes.extend_from_slice(&(fd as u32).to_le_bytes());
    }
    uaccess::copy_out(header.control, &bytes)?;
    Ok((size.next_multiple_of(8).min(header.control_len), flags))
}

/// recvmsg(2).
pub fn recvmsg(a: &Args, _: &mut TrapFrame) -> SysResult {
    let (file, socket) = socket_of(a[0])?;
    let flags = a[2] as u32;
    let header = Header::read(a[1])?;
    let parts = vectors(header.iov, header.iov_len)?;
    let mut rights = Vec::new();
    let done = receive(&socket, &parts, flags, waits_not(&file, flags), Some(&mut rights))?;
    let (control_len, said) = write_control(&header, rights, flags & MSG_CMSG_CLOEXEC != 0)?;
    if header.name != 0 {
        uaccess::write(a[1] + 8, &0_u32)?;
    }
    uaccess::write(a[1] + 40, &control_len)?;
    uaccess::write(a[1] + 48, &(said | flags & MSG_CMSG_CLOEXEC))?;
    Ok(done)
}
