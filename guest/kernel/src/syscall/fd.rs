//! Descriptors: dup, fcntl, ioctl, pipe, and descriptors without a name: argument decoding; the work is in `fs`.

use super::file::{file, files};
use super::{Args, SysResult};
use crate::fs::device::Device;
use crate::fs::epoll::Epoll;
use crate::fs::event::EventCounter;
use crate::fs::file::{File, O_CLOEXEC, O_DIRECT, O_NONBLOCK, O_RDWR, O_WRONLY, Ops, closed};
use crate::fs::inode::{Kind, S_IFIFO};
use crate::fs::locks::{self, Record};
use crate::fs::memfd::{self, nameless};
use crate::fs::pipe::Pipe;
use crate::fs::proc::sysctl;
use crate::fs::signalfd::SignalSet;
use crate::fs::{caller, console, userfault};
use crate::task::creds::CAP_SYS_PTRACE;
use crate::task::current;
use alloc::sync::Arc;
use ptshare_abi::Errno;
use ptshare_abi::sys::general as abi;
use ptshare_abi::sys::ioctl as req;
use ptshare_machine::trap::TrapFrame;
use ptshare_machine::uaccess::{self, CStrError};

/// dup(2).
pub fn dup(a: &Args, _: &mut TrapFrame) -> SysResult {
    let table = files();
    let file = table.get(a[0] as i32)?;
    Ok(table.install(file, false)?)
}

fn dup_to(old: u64, new: u64, cloexec: bool) -> SysResult {
    let table = files();
    let file = table.get(old as i32)?;
    let replaced = table.install_at(new as u32 as u64, file, cloexec)?;
    if let Some(replaced) = replaced {
        closed(&table, replaced);
    }
    Ok(new as u32 as u64)
}

/// dup2(2).
pub fn dup2(a: &Args, _: &mut TrapFrame) -> SysResult {
    if a[0] as i32 == a[1] as i32 {
        files().get(a[0] as i32)?;
        return Ok(a[1] as u32 as u64);
    }
    dup_to(a[0], a[1], false)
}

/// dup3(2).
pub fn dup3(a: &Args, _: &mut TrapFrame) -> SysResult {
    let flags = a[2] as u32;
    if flags & !O_CLOEXEC != 0 || a[0] as i32 == a[1] as i32 {
        return Err(Errno::EINVAL.into());
    }
    dup_to(a[0], a[1], flags & O_CLOEXEC != 0)
}

/// close_range(2). CLOSE_RANGE_UNSHARE makes no difference to a table that nobody shares; a shared one is refused.
pub fn close_range(a: &Args, _: &mut TrapFrame) -> SysResult {
    const CLOEXEC: u64 = 4;
    const UNSHARE: u64 = 2;
    let (first, last, flags) = (a[0] & 0xffff_ffff, a[1] & 0xffff_ffff, a[2]);
    if flags & !(CLOEXEC | UNSHARE) != 0 || first > last {
        return Err(Errno::EINVAL.into());
    }
    let table = files();
    if flags & CLOEXEC != 0 {
        table.set_cloexec_range(first, last);
    } else {
        table.close_where(|fd, _| (first..=last).contains(&fd));
    }
    Ok(0)
}

fn make_pipe(va: u64, flags: u32) -> SysResult {
    if flags & !(O_CLOEXEC | O_NONBLOCK | O_DIRECT | 0o200) != 0 {
        return Err(Errno::EINVAL.into());
    }
    crate::heap_room()?;
    let pipe = Arc::new(Pipe::new());
    pipe.open_both();
    let path = nameless(b"pipe:", S_IFIFO | 0o600, Kind::Fifo(pipe.clone()));
    let status = flags & (O_NONBLOCK | O_DIRECT);
    let read = File::new(path.clone(), Ops::Pipe(pipe.clone()), status);
    let write = File::new(path, Ops::Pipe(pipe), status | O_WRONLY);
    install_two(va, read, write, flags & O_CLOEXEC != 0)
}

/// Gives two files descriptors and stores them at `va`; on an error neither stays.
pub(super) fn install_two(va: u64, first: Arc<File>, second: Arc<File>, cloexec: bool) -> SysResult {
    let table = files();
    let one = table.install(first, cloexec)?;
    let two = match table.install(second, cloexec) {
        Ok(two) => two,
        Err(errno) => {
            drop(table.remove(one as i32));
            return Err(errno.into());
        }
    };
    if let Err(fault) = uaccess::write(va, &[one as u32, two as u32]) {
        drop(table.remove(one as i32));
        drop(table.remove(two as i32));
        return Err(fault.into());
    }
    Ok(0)
}

/// pipe(2).
pub fn pipe(a: &Args, _: &mut TrapFrame) -> SysResult {
    make_pipe(a[0], 0)
}

/// pipe2(2).
pub fn pipe2(a: &Args, _: &mut TrapFrame) -> SysResult {
    make_pipe(a[0], a[1] as u32)
}

/// memfd_create(2).
pub fn memfd_create(a: &Args, _: &mut TrapFrame) -> SysResult {
    crate::heap_room()?;
    let name = uaccess::read_cstr(a[0], 249).map_err(|error| match error {
        CStrError::Fault => Errno::EFAULT,
        CStrError::TooLong => Errno::EINVAL,
        CStrError::NoMemory => Errno::ENOMEM,
    })?;
    let (file, cloexec) = memfd::create(&name, a[1] as u32)?;
    Ok(files().install(file, cloexec)?)
}

fn make_eventfd(value: u64, flags: u32) -> SysResult {
    if flags & !(O_CLOEXEC | O_NONBLOCK | 1) != 0 {
        return Err(Errno::EINVAL.into());
    }
    crate::heap_room()?;
    let path = nameless(b"anon_inode:[eventfd]", 0o600, Kind::Anonymous);
    let counter = EventCounter::new(value & 0xffff_ffff, flags & 1 != 0);
    let file = File::new(path, Ops::Event(counter), O_RDWR | flags & O_NONBLOCK);
    Ok(files().install(file, flags & O_CLOEXEC != 0)?)
}

/// eventfd(2).
pub fn eventfd(a: &Args, _: &mut TrapFrame) -> SysResult {
    make_eventfd(a[0], 0)
}

/// eventfd2(2).
pub fn eventfd2(a: &Args, _: &mut TrapFrame) -> SysResult {
    make_eventfd(a[0], a[1] as u32)
}

fn make_signalfd(fd: i32, at: u64, bytes: u64, flags: u32) -> SysResult {
    if flags & !(O_CLOEXEC | O_NONBLOCK) != 0 || bytes != 8 {
        return Err(Errno::EINVAL.into());
    }
    let mask: u64 = uaccess::read(at)?;
    if fd == -1 {
        crate::heap_room()?;
        let path = nameless(b"anon_inode:[signalfd]", 0o600, Kind::Anonymous);
        let file = File::new(path, Ops::Signals(SignalSet::new(mask)), O_RDWR | flags & O_NONBLOCK);
        return Ok(files().install(file, flags & O_CLOEXEC != 0)?);
    }
    let file = files().get(fd)?;
    let Ops::Signals(set) = &file.ops else { return Err(Errno::EINVAL.into()) };
    set.set(mask);
    Ok(fd as u64)
}

/// signalfd(2).
pub fn signalfd(a: &Args, _: &mut TrapFrame) -> SysResult {
    make_signalfd(a[0] as i32, a[1], a[2], 0)
}

/// signalfd4(2).
pub fn signalfd4(a: &Args, _: &mut TrapFrame) -> SysResult {
    make_signalfd(a[0] as i32, a[1], a[2], a[3] as u32)
}

/// userfaultfd(2).
pub fn userfaultfd(a: &Args, _: &mut TrapFrame) -> SysResult {
    let flags = a[0] as u32;
    let user_only = flags & abi::UFFD_USER_MODE_ONLY != 0;
    if !user_only && !sysctl::unprivileged_userfaultfd() && !current().process.creds().capable(CAP_SYS_PTRACE)
    {
        return Err(Errno::EPERM.into());
    }
    userfault::create(flags)
}

fn make_epoll(flags: u32) -> SysResult {
    if flags & !O_CLOEXEC != 0 {
        return Err(Errno::EINVAL.into());
    }
    crate::heap_room()?;
    let path = nameless(b"anon_inode:[eventpoll]", 0o600, Kind::Anonymous);
    let file = File::new(path, Ops::Epoll(Epoll::new()), O_RDWR);
    Ok(files().install(file, flags & O_CLOEXEC != 0)?)
}

/// epoll_create(2).
pub fn epoll_create(a: &Args, _: &mut TrapFrame) -> SysResult {
    if a[0] as i32 <= 0 {
        return Err(Errno::EINVAL.into());
    }
    make_epoll(0)
}

/// epoll_create1(2).
pub fn epoll_create1(a: &Args, _: &mut TrapFrame) -> SysResult {
    make_epoll(a[0] as u32)
}

const F_DUPFD: u32 = 0;
const F_GETFD: u32 = 1;
const F_SETFD: u32 = 2;
const F_GETFL: u32 = 3;
const F_SETFL: u32 = 4;
const F_GETLK: u32 = 5;
const F_SETLK: u32 = 6;
const F_SETLKW: u32 = 7;
const F_SETOWN: u32 = 8;
const F_GETOWN: u32 = 9;
const F_SETOWN_EX: u32 = 15;
const F_GETOWN_EX: u32 = 16;
const F_OFD_GETLK: u32 = 36;
const F_OFD_SETLK: u32 = 37;
const F_OFD_SETLKW: u32 = 38;
const F_GETLEASE: u32 = 1025;
const F_DUPFD_CLOEXEC: u32 = 1030;
const F_SETPIPE_SZ: u32 = 1031;
const F_GETPIPE_SZ: u32 = 1032;
const F_ADD_SEALS: u32 = 1033;
const F_GET_SEALS: u32 = 1034;

/// fcntl(2).
pub fn fcntl(a: &Args, _: &mut TrapFrame) -> SysResult {
    let table = files();
    let fd = a[0] as i32;
    let file = table.get(fd)?;
    let (cmd, arg) = (a[1] as u32, a[2]);
    match cmd {
        F_DUPFD | F_DUPFD_CLOEXEC => {
            let from = arg as u32 as u64;
            if from >= caller::nofile() {
                return Err(Errno::EINVAL.into());
            }
            return Ok(table.install_from(from, file, cmd == F_DUPFD_CLOEXEC)?);
        }
        F_GETFD => return Ok(u64::from(table.cloexec(fd)?)),
        F_SETFD => {
            table.set_cloexec(fd, arg & 1 != 0)?;
            return Ok(0);
        }
        F_GETFL => return Ok(u64::from(file.flags())),
        _ if file.is_place() => return Err(Errno::EBADF.into()),
        F_SETFL => file.set_flags(arg as u32),
        F_GETLK | F_SETLK | F_SETLKW | F_OFD_GETLK | F_OFD_SETLK | F_OFD_SETLKW => {
            return record_lock(&file, table.id, cmd, arg);
        }
        F_SETOWN | 10 | F_SETOWN_EX => {}
        F_GETOWN | 11 => return Ok(0),
        // Nobody: a struct f_owner_ex with type F_OWNER_PID and pid 0.
        F_GETOWN_EX => uaccess::write(arg, &[1_u32, 0])?,
        F_GETLEASE => return Ok(F_UNLCK as u64),
        F_GETPIPE_SZ | F_SETPIPE_SZ => match &file.ops {
            Ops::Pipe(pipe) if cmd == F_GETPIPE_SZ => return Ok(pipe.capacity()),
            Ops::Pipe(pipe) => return Ok(pipe.resize(arg & 0xffff_ffff)?),
            _ => return Err(Errno::EBADF.into()),
        },
        F_ADD_SEALS => memfd::add_seals(&file, arg as u32)?,
        F_GET_SEALS => return Ok(u64::from(memfd::get_seals(&file)?)),
        _ => return Err(Errno::EINVAL.into()),
    }
    Ok(0)
}

const F_RDLCK: i16 = 0;
const F_WRLCK: i16 = 1;
const F_UNLCK: i16 = 2;

/// The range that a `struct flock` names: first and last byte.
fn lock_range(file: &File, lock: &abi::flock) -> Result<(u64, u64), Errno> {
    let base = match lock.l_whence {
        0 => 0,
        1 => file.position() as i64,
        2 => file.inode().size() as i64,
        _ => return Err(Errno::EINVAL),
    };
    let start = base.checked_add(lock.l_start).ok_or(Errno::EOVERFLOW)?;
    let (start, end) = match lock.l_len {
        0 => (start, i64::MAX),
        len if len > 0 => (start, start.checked_add(len - 1).ok_or(Errno::EOVERFLOW)?),
        len => (start.checked_add(len).ok_or(Errno::EOVERFLOW)?, start - 1),
    };
    if start < 0 || end < start {
        return Err(Errno::EINVAL);
    }
    Ok((start as u64, if end == i64::MAX { u64::MAX } else { end as u64 }))
}

fn record_lock(file: &Arc<File>, table_id: u64, cmd: u32, arg: u64) -> SysResult {
    let mut lock: abi::flock = uaccess::read(arg)?;
    let ofd = cmd >= F_OFD_GETLK;
    if ofd && lock.l_pid != 0 {
        return Err(Errno::EINVAL.into());
    }
    let (start, end) = lock_range(file, &lock)?;
    let write = match lock.l_type {
        F_RDLCK => false,
        F_WRLCK => true,
        F_UNLCK if cmd != F_GETLK && cmd != F_OFD_GETLK => false,
        _ => return Err(Errno::EINVAL.into()),
    };
    let owner = if ofd { Arc::as_ptr(file) as u64 } else { table_id };
    let pid = if ofd { -1 } else { current().process.pid as i32 };
    let wanted = Record { start, end, write, owner, pid };
    if cmd == F_GETLK || cmd == F_OFD_GETLK {
        match locks::test(file.inode(), &wanted) {
            None => lock.l_type = F_UNLCK,
            Some(found) => {
                lock.l_type = if found.write { F_WRLCK } else { F_RDLCK };
                lock.l_whence = 0;
                lock.l_start = found.start as i64;
                lock.l_len = if found.end == u64::MAX { 0 } else { (found.end - found.start + 1) as i64 };
                lock.l_pid = found.pid;
            }
        }
        uaccess::write(arg, &lock)?;
        return Ok(0);
    }
    if lock.l_type == F_UNLCK {
        locks::clear(file.inode(), start, end, owner);
        return Ok(0);
    }
    if write && !file.writable() || !write && !file.readable() {
        return Err(Errno::EBADF.into());
    }
    locks::set(file.inode(), wanted, cmd == F_SETLKW || cmd == F_OFD_SETLKW)?;
    Ok(0)
}

/// ioctl(2).
pub fn ioctl(a: &Args, _: &mut TrapFrame) -> SysResult {
    let file = file(a[0])?;
    let (request, arg) = (a[1] as u32, a[2]);
    match request {
        req::FIOCLEX => files().set_cloexec(a[0] as i32, true)?,
        req::FIONCLEX => files().set_cloexec(a[0] as i32, false)?,
        req::FIONBIO => {
            let on = uaccess::read::<u32>(arg)? != 0;
            file.set_nonblock(on);
        }
        _ => {
            let waiting = match &file.ops {
                Ops::Tty(_) => return console::ioctl(request, arg),
                Ops::Userfault(uffd) => return uffd.ioctl(request, arg),
                Ops::Device(Device::Userfault) if request == userfault::IOC_NEW => {
                    return userfault::create(arg as u32);
                }
                Ops::Device(Device::Userfault) => return Err(Errno::EINVAL.into()),
                Ops::Pipe(pipe) => pipe.waiting(),
                Ops::Socket(socket) => socket.waiting()?,
                Ops::Host(_) => console::waiting(true),
                Ops::Regular => file.inode().size().saturating_sub(file.position()),
                _ => return Err(Errno::ENOTTY.into()),
            };
            if request != req::FIONREAD {
                return Err(Errno::ENOTTY.into());
            }
            uaccess::write(arg, &(waiting.min(i32::MAX as u64) as u32))?;
        }
    }
    Ok(0)
}
