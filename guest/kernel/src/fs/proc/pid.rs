//! /proc/PID and /proc/PID/task/TID (proc_pid(5)).

mod content;

use super::{extra, maps, status};
use crate::KMm;
use crate::fs::caller;
use crate::fs::dentry::Path;
use crate::fs::inode::{S_IFDIR, S_IFLNK, S_IFMT, S_IFREG};
use crate::fs::io::{Sink, Source};
use crate::fs::text::Text;
use crate::fs::virt::{Listed, number};
use crate::fs::walk::Link;
use crate::syscall::SysResult;
use crate::task::{self, Process, Task};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::Ordering::Relaxed;
use ptshare_abi::Errno;
use ptshare_mm::vma::{VM_READ, VM_WRITE};

/// Which file of a process.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Which {
    /// The process's directory itself (or a thread's).
    Dir,
    /// Directory of threads.
    Task,
    /// Directory of descriptors.
    Fd,
    /// A descriptor.
    FdLink(u32),
    /// Directory of what is known about descriptors.
    FdInfo,
    /// What is known about a descriptor.
    FdInfoFile(u32),
    /// Directory of the files that are mapped.
    MapFiles,
    /// A file that is mapped, by the first and last page of the mapping.
    MapFile(u64, u64),
    /// A file, by its place in [`FILES`].
    File(u8),
}

/// A file of a process or thread.
#[derive(Clone, Copy)]
pub struct PidNode {
    pid: u32,
    /// The thread, for what is under `task/`; 0 else.
    tid: u32,
    which: Which,
}

/// Names and modes in a process's directory; the first [`DIRS`] are directories.
const FILES: &[(&str, u32)] = &[
    ("task", S_IFDIR | 0o555),
    ("fd", S_IFDIR | 0o500),
    ("fdinfo", S_IFDIR | 0o555),
    ("map_files", S_IFDIR | 0o500),
    ("cwd", S_IFLNK | 0o777),
    ("exe", S_IFLNK | 0o777),
    ("root", S_IFLNK | 0o777),
    ("auxv", S_IFREG | 0o400),
    ("cmdline", S_IFREG | 0o444),
    ("comm", S_IFREG | 0o644),
    ("environ", S_IFREG | 0o400),
    ("io", S_IFREG | 0o400),
    ("limits", S_IFREG | 0o644),
    ("maps", S_IFREG | 0o444),
    ("mem", S_IFREG | 0o600),
    ("mountinfo", S_IFREG | 0o444),
    ("mounts", S_IFREG | 0o444),
    ("oom_adj", S_IFREG | 0o644),
    ("oom_score", S_IFREG | 0o444),
    ("oom_score_adj", S_IFREG | 0o644),
    ("pagemap", S_IFREG | 0o400),
    ("personality", S_IFREG | 0o400),
    ("smaps", S_IFREG | 0o444),
    ("smaps_rollup", S_IFREG | 0o444),
    ("stat", S_IFREG | 0o444),
    ("statm", S_IFREG | 0o444),
    ("status", S_IFREG | 0o444),
    ("syscall", S_IFREG | 0o400),
    ("wchan", S_IFREG | 0o444),
    ("clear_refs", S_IFREG | 0o200),
];
const DIRS: usize = 4;

/// Longest text taken from a process's memory.
const STRINGS_MAX: usize = 128 << 10;

/// The directory of a process or thread by its name in the root of procfs.
///
/// # Errors
/// ENOENT.
pub fn find(name: &[u8]) -> Result<PidNode, Errno> {
    let pid = pid_of(name)?;
    // A thread's id works too, though it is not listed.
    let process = task::table::find_process_of(pid).ok_or(Errno::ENOENT)?;
    let tid = if process.pid == pid { 0 } else { pid };
    Ok(PidNode { pid: process.pid, tid, which: Which::Dir })
}

fn pid_of(name: &[u8]) -> Result<u32, Errno> {
    if name.first() == Some(&b'0') || !name.iter().all(u8::is_ascii_digit) {
        return Err(Errno::ENOENT);
    }
    number(name).and_then(|n| u32::try_from(n).ok()).ok_or(Errno::ENOENT)
}

/// The first process whose pid is not below `from`.
pub fn list_processes(from: u64) -> Option<Listed> {
    let mut first: Option<u32> = None;
    task::for_each_process(|process| {
        if u64::from(process.pid) >= from && first.is_none_or(|pid| process.pid < pid) {
            first = Some(process.pid);
        }
    });
    let pid = first?;
    Some(listed(u64::from(pid) + 1, number_name(pid), S_IFDIR))
}

fn number_name(n: u32) -> Vec<u8> {
    let mut text = Text::new();
    text.dec(u64::from(n));
    text.into_bytes()
}

fn listed(next: u64, name: Vec<u8>, file_type: u32) -> Listed {
    Listed { next, ino: u64::from(crate::fs::pathname::hash(&name)) | 1 << 33, name, file_type }
}

impl PidNode {
    fn process(&self) -> Result<Arc<Process>, Errno> {
        task::find_process(self.pid).ok_or(Errno::ESRCH)
    }

    /// The process, if this is its directory.
    pub fn of_directory(&self) -> Option<Arc<Process>> {
        if self.which == Which::Dir && self.tid == 0 { self.process().ok() } else { None }
    }

    fn task(&self) -> Option<Arc<Task>> {
        task::find_task(if self.tid != 0 { self.tid } else { self.pid })
    }

    fn mm(&self) -> Result<Option<Arc<KMm>>, Errno> {
        Ok(self.process()?.try_mm())
    }

    fn id(&self) -> u32 {
        if self.tid != 0 { self.tid } else { self.pid }
    }

    fn sub(&self, which: Which) -> PidNode {
        PidNode { which, ..*self }
    }

    /// `st_mode`.
    pub fn mode(&self) -> u32 {
        match self.which {
            Which::Dir => S_IFDIR | 0o555,
            Which::Task | Which::FdInfo => S_IFDIR | 0o555,
            Which::Fd | Which::MapFiles => S_IFDIR | 0o500,
            Which::MapFile(start, _) => S_IFLNK | self.mapping(start).map_or(0o500, |(_, mode, _)| mode),
            Which::FdLink(fd) => S_IFLNK | self.link_mode(fd),
            Which::FdInfoFile(_) => S_IFREG | 0o444,
            Which::File(n) => FILES.get(usize::from(n)).map_or(S_IFREG, |(_, mode)| *mode),
        }
    }

    /// Permission bits of a descriptor's link: what the file was opened for.
    fn link_mode(&self, fd: u32) -> u32 {
        let files = self.process().ok().and_then(|process| process.try_files());
        let Some(file) = files.and_then(|files| files.get(fd as i32).ok()) else { return 0o500 };
        0o100 | if file.readable() { 0o400 } else { 0 } | if file.writable() { 0o200 } else { 0 }
    }

    /// Inode number: the process, the thread and the file in one number.
    pub fn ino(&self) -> u64 {
        let file = match self.which {
            Which::Dir => 1,
            Which::Task => 2,
            Which::Fd => 3,
            Which::FdInfo => 4,
            Which::MapFiles => 5,
            Which::MapFile(start, _) => 1 << 31 | start >> 12,
            Which::File(n) => 16 + u64::from(n),
            Which::FdLink(fd) => 256 + 2 * u64::from(fd),
            Which::FdInfoFile(fd) => 257 + 2 * u64::from(fd),
        };
        1 << 32 | u64::from(self.id()) << 33 | file & 0xffff_ffff
    }

    /// Owner and group: the process's effective ones.
    pub fn owner(&self) -> (u32, u32) {
        self.process().map_or((0, 0), |process| {
            let cred = process.creds();
            (cred.euid, cred.egid)
        })
    }

    /// The entry of this directory with this name.
    ///
    /// # Errors
    /// ENOENT.
    pub fn lookup(&self, name: &[u8]) -> Result<PidNode, Errno> {
        match self.which {
            Which::Dir => {
                let at = FILES.iter().position(|(n, _)| n.as_bytes() == name).ok_or(Errno::ENOENT)?;
                self.process().map_err(|_| Errno::ENOENT)?;
                if self.tid != 0 && at == 0 {
                    return Err(Errno::ENOENT);
                }
                Ok(self.sub(match at {
                    0 => Which::Task,
                    1 => Which::Fd,
                    2 => Which::FdInfo,
                    3 => Which::MapFiles,
                    n => Which::File(n as u8),
                }))
            }
            Which::Task => {
                let tid = pid_of(name)?;
                let task = task::find_task(tid).ok_or(Errno::ENOENT)?;
                if task.process.pid != self.pid {
                    return Err(Errno::ENOENT);
                }
                Ok(PidNode { pid: self.pid, tid, which: Which::Dir })
            }
            Which::Fd | Which::FdInfo => {
                let fd = if name == b"0" { 0 } else { pid_of(name)? };
                let files = self.process()?.try_files().ok_or(Errno::ENOENT)?;
                files.get(fd as i32).map_err(|_| Errno::ENOENT)?;
                Ok(self.sub(if self.which == Which::Fd { Which::FdLink(fd) } else { Which::FdInfoFile(fd) }))
            }
            Which::MapFiles => {
                let (start, end) = range_of(name).ok_or(Errno::ENOENT)?;
                self.mapping(start).filter(|found| found.0 == end).ok_or(Errno::ENOENT)?;
                Ok(self.sub(Which::MapFile(start, end)))
            }
            _ => Err(Errno::ENOTDIR),
        }
    }

    /// The mapping of a file that begins at an address: its end, the link's permission bits, the file's path.
    fn mapping(&self, start: u64) -> Option<(u64, u32, Vec<u8>)> {
        let mm = self.mm().ok()??;
        let mut found = None;
        mm.for_each_vma_from(start, &mut |vma| {
            if let Some(object) = vma.object
                && vma.start == start
            {
                let bit = |right, bit| if vma.flags & right != 0 { bit } else { 0 };
                let mode = 0o100 | bit(VM_READ, 0o400) | bit(VM_WRITE, 0o200);
                found = Some((vma.end, mode, object.info().path.lock().as_bytes().to_vec()));
            }
            false
        });
        found
    }

    /// The entry of this directory at a position or after it.
    pub fn list(&self, at: u64) -> Option<Listed> {
        match self.which {
            Which::Dir => {
                let skip = if self.tid != 0 { 1 } else { 0 };
                let (name, mode) = FILES.get(at as usize + skip)?;
                Some(listed(at + 1, name.as_bytes().to_vec(), mode & S_IFMT))
            }
            Which::Task => {
                let process = self.process().ok()?;
                let tids: Vec<u32> = process.signals.lock().threads().map(|task| task.tid()).collect();
                let tid = tids.into_iter().filter(|tid| u64::from(*tid) >= at).min()?;
                Some(listed(u64::from(tid) + 1, number_name(tid), S_IFDIR))
            }
            Which::Fd | Which::FdInfo => {
                let files = self.process().ok()?.try_files()?;
                let (fd, _) = files.next_open(at)?;
                let file_type = if self.which == Which::Fd { S_IFLNK } else { S_IFREG };
                Some(listed(fd + 1, number_name(fd as u32), file_type))
            }
            Which::MapFiles => {
                // A position is the number of the page from which to look on.
                let mm = self.mm().ok()??;
                let mut found = None;
                mm.for_each_vma_from(at << 12, &mut |vma| {
                    if vma.object.is_some() && vma.start >= at << 12 {
                        found = Some((vma.start, vma.end));
                    }
                    found.is_none()
                });
                let (start, end) = found?;
                let mut name = Text::new();
                name.hex(start, 1).c(b'-').hex(end, 1);
                Some(listed((start >> 12) + 1, name.into_bytes(), S_IFLNK))
            }
            _ => None,
        }
    }

    fn name(&self) -> &'static str {
        match self.which {
            Which::File(n) => FILES.get(usize::from(n)).map_or("", |(name, _)| name),
            _ => "",
        }
    }

    /// May the caller look into this process (Linux `ptrace_may_access`)?
    fn may_look(&self) -> Result<(), Errno> {
        let me = caller::creds();
        let process = self.process()?;
        let other = process.creds();
        let same = me.fsuid == other.uid && me.fsuid == other.euid && me.fsuid == other.suid;
        if same || me.capable(19) || process.pid == task::current().process.pid {
            Ok(())
        } else {
            Err(Errno::EACCES)
        }
    }

    fn target(&self) -> Result<Path, Errno> {
        self.may_look()?;
        let process = self.process()?;
        let fs = || process.try_fs().ok_or(Errno::ENOENT);
        match self.which {
            Which::FdLink(fd) => {
                let files = process.try_files().ok_or(Errno::ENOENT)?;
                let file = files.get(fd as i32).map_err(|_| Errno::ENOENT)?;
                Ok(file.path.clone())
            }
            _ => match self.name() {
                "cwd" => Ok(fs()?.cwd()),
                "root" => Ok(fs()?.root()),
                "exe" => process.exe().map(|file| file.path.clone()).ok_or(Errno::ENOENT),
                _ => Err(Errno::EINVAL),
            },
        }
    }

    fn mapped_path(&self, start: u64) -> Result<Vec<u8>, Errno> {
        self.may_look()?;
        self.mapping(start).map(|(_, _, path)| path).ok_or(Errno::ENOENT)
    }

    /// Where a link leads.
    ///
    /// # Errors
    /// EINVAL when it is none; ENOENT, EACCES, ESRCH.
    pub fn link(&self) -> Result<Link, Errno> {
        if self.mode() & S_IFMT != S_IFLNK {
            return Err(Errno::EINVAL);
        }
        if let Which::MapFile(start, _) = self.which {
            return Ok(Link::Text(self.mapped_path(start)?));
        }
        Ok(Link::Jump(self.target()?))
    }

    /// What readlink says of it.
    ///
    /// # Errors
    /// As [`PidNode::link`].
    pub fn link_text(&self) -> Result<Vec<u8>, Errno> {
        if self.mode() & S_IFMT != S_IFLNK {
            return Err(Errno::EINVAL);
        }
        if let Which::MapFile(start, _) = self.which {
            return self.mapped_path(start);
        }
        Ok(self.target()?.text(&task::current().process.fs().root()).0)
    }
}

/// Two hexadecimal addresses with a dash between them.
fn range_of(name: &[u8]) -> Option<(u64, u64)> {
    let mut ends = core::str::from_utf8(name).ok()?.splitn(2, '-').map(|end| u64::from_str_radix(end, 16));
    Some((ends.next()?.ok()?, ends.next()?.ok()?))
}

const _: () = assert!(DIRS == 4 && FILES.len() < 256);
