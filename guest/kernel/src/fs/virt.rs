//! Files and directories that are made when they are looked at: procfs and sysfs.
//!
//! A [`Node`] is a small value that says what a file is; nothing exists for it until somebody opens it. A text is made
//! whole when a read begins at 0 and kept with the open file, as Linux's seq_file does. Fixed parts of the trees are
//! tables in read-only memory ([`Entry`]).

use super::dentry::{Dentry, Name};
use super::inode::{Inode, Kind, NewInode, S_IFDIR, S_IFLNK, S_IFREG, now};
use super::io::{Sink, Source, total};
use super::proc::pid::{self, PidNode};
use super::text::Text;
use super::walk::Link;
use crate::syscall::SysResult;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use ptshare_abi::Errno;
use ptshare_sync::{Lock, Rank};

/// Most bytes that one write to such a file may have.
const WRITE_MAX: u64 = 4096;

/// A fixed file or directory.
pub struct Entry {
    /// Name.
    pub name: &'static str,
    /// Permission bits.
    pub mode: u32,
    /// What it is.
    pub what: What,
}

/// What a fixed file is.
pub enum What {
    /// A directory.
    Dir(&'static [Entry]),
    /// A directory, of whose entries so many are there as a function says.
    First(&'static [Entry], fn() -> usize),
    /// A text made by a function.
    Text(fn(&mut Text)),
    /// A text about one of several things, and its number.
    Numbered(fn(&mut Text, u64), u64),
    /// A text that never changes, with its newline.
    Fixed(&'static str),
    /// A number that may be written, up to a maximum.
    Number(&'static AtomicU64, u64),
    /// A text, and what happens with a line that is written.
    Line(fn(&mut Text), fn(&[u8]) -> Result<(), Errno>),
    /// A symbolic link.
    Link(fn(&mut Text)),
    /// What is read at a position, in a file without an end of its own.
    Words(fn(u64, &mut Sink) -> SysResult),
}

/// A file that is made when it is looked at.
#[derive(Clone, Copy)]
pub enum Node {
    /// A fixed file.
    Fixed(&'static Entry),
    /// The root of procfs: fixed files and a directory for each process.
    ProcRoot,
    /// A file of a process.
    Pid(PidNode),
    /// /dev/ptshare.
    Ptshare,
}

/// Most bytes that one read of a long text gives, and then whole lines: Linux's seq_file fills one page. Programs have come
/// to stop at a short read.
const LONG_READ: u64 = 4096;

/// The text that an open file shows: the whole of it, or, of a long one, what has been made and not read yet.
pub struct Snapshot(Lock<Option<Arc<Vec<u8>>>>, Lock<Option<Part>>);

/// A piece of a long text.
struct Part {
    /// Position of its first byte in the file.
    base: u64,
    text: Text,
    /// Where it goes on; `None`: it ends with the file.
    next: Option<u64>,
}

impl Part {
    /// Forgets what lies before `pos`.
    fn skip_to(&mut self, pos: u64) {
        let skip = pos.saturating_sub(self.base).min(self.text.len() as u64);
        self.text.drop_front(skip as usize);
        self.base += skip;
    }

    /// Makes more until `len` bytes from `pos` on are there, or the end.
    fn extend(&mut self, node: &pid::PidNode, pos: u64, len: u64) -> Result<(), Errno> {
        loop {
            self.skip_to(pos);
            let Some(from) = self.next else { return Ok(()) };
            let enough = (pos - self.base).saturating_add(len).min(LONG_READ);
            if self.base == pos && self.text.len() as u64 >= enough {
                return Ok(());
            }
            self.next = node.more(&mut self.text, from, enough as usize)?;
            if self.text.is_cut() {
                return Err(Errno::ENOMEM);
            }
        }
    }
}

impl Default for Snapshot {
    fn default() -> Self {
        Self::new()
    }
}

impl Snapshot {
    /// No text yet.
    pub const fn new() -> Self {
        Snapshot(Lock::new(Rank::Files, None), Lock::new(Rank::Files, None))
    }
}

/// One line of a directory listing.
pub struct Listed {
    /// Where the listing goes on.
    pub next: u64,
    /// Name.
    pub name: Vec<u8>,
    /// Inode number.
    pub ino: u64,
    /// `S_IF*`.
    pub file_type: u32,
}

/// First cookie after `.` and `..`.
pub const FIRST_COOKIE: u64 = 2;
/// Cookie of pid 0 in the root of procfs.
const PID_COOKIES: u64 = 1 << 16;

fn entry_mode(entry: &Entry) -> u32 {
    let file_type = match entry.what {
        What::Dir(_) | What::First(..) => S_IFDIR,
        What::Link(_) => S_IFLNK,
        _ => S_IFREG,
    };
    file_type | entry.mode
}

fn entry_ino(entry: &'static Entry) -> u64 {
    // Tables do not move: the address is a number as good as any. Bit 31 keeps it apart from those of processes.
    (core::ptr::from_ref(entry) as u64 >> 3 & 0x0fff_ffff) | 1 << 31
}

impl Node {
    /// `st_mode`.
    pub fn mode(&self) -> u32 {
        match self {
            Node::Fixed(entry) => entry_mode(entry),
            Node::ProcRoot => S_IFDIR | 0o555,
            Node::Pid(node) => node.mode(),
            Node::Ptshare => super::inode::S_IFCHR | 0o666,
        }
    }

    /// Inode number.
    pub fn ino(&self) -> u64 {
        match self {
            Node::Fixed(entry) => entry_ino(entry),
            Node::ProcRoot => 1,
            Node::Pid(node) => node.ino(),
            Node::Ptshare => 2,
        }
    }

    fn owner(&self) -> (u32, u32) {
        match self {
            Node::Pid(node) => node.owner(),
            _ => (0, 0),
        }
    }

    fn children(&self) -> &'static [Entry] {
        match self {
            Node::Fixed(Entry { what: What::Dir(entries), .. }) => entries,
            Node::Fixed(Entry { what: What::First(entries, count), .. }) => {
                entries.get(..count()).unwrap_or(entries)
            }
            Node::ProcRoot => super::proc::ROOT,
            _ => &[],
        }
    }

    /// Makes the name and the inode of an entry of this directory.
    ///
    /// # Errors
    /// ENOENT.
    pub fn lookup(&self, dir: &Arc<Dentry>, name: &[u8]) -> Result<Arc<Dentry>, Errno> {
        let fixed = self.children().iter().find(|entry| entry.name.as_bytes() == name);
        let node = match (fixed, self) {
            (Some(entry), _) => Node::Fixed(entry),
            (None, Node::ProcRoot) => Node::Pid(pid::find(name)?),
            (None, Node::Pid(node)) => Node::Pid(node.lookup(name)?),
            _ => return Err(Errno::ENOENT),
        };
        crate::heap_room()?;
        let (uid, gid) = node.owner();
        let new = NewInode { mode: node.mode(), uid, gid, time_ns: now() };
        let inode = Inode::new(&dir.inode.sb, node.ino(), new, Kind::Virtual(node));
        Ok(Dentry::new(Some(dir.clone()), Name::Owned(name.to_vec()), inode))
    }

    /// The entry of this directory at a cookie or after it.
    pub fn list(&self, cookie: u64) -> Option<Listed> {
        let at = cookie.saturating_sub(FIRST_COOKIE) as usize;
        if let Some(entry) = self.children().get(at) {
            return Some(Listed {
                next: cookie.max(FIRST_COOKIE) + 1,
                name: entry.name.as_bytes().to_vec(),
                ino: entry_ino(entry),
                file_type: entry_mode(entry) & super::inode::S_IFMT,
            });
        }
        match self {
            Node::ProcRoot => {
                let mut listed = pid::list_processes(cookie.saturating_sub(PID_COOKIES))?;
                listed.next += PID_COOKIES;
                Some(listed)
            }
            Node::Pid(node) => {
                let mut listed = node.list(cookie.saturating_sub(FIRST_COOKIE))?;
                listed.next += FIRST_COOKIE;
                Some(listed)
            }
            _ => None,
        }
    }

    /// Where a symbolic link leads.
    ///
    /// # Errors
    /// EINVAL when it is none; what the process's link says.
    pub fn link(&self) -> Result<Link, Errno> {
        match self {
            Node::Fixed(Entry { what: What::Link(make), .. }) => {
                let mut text = Text::new();
                make(&mut text);
                Ok(Link::Text(text.into_bytes()))
            }
            Node::Pid(node) => node.link(),
            _ => Err(Errno::EINVAL),
        }
    }

    /// The text of a symbolic link, for readlink.
    ///
    /// # Errors
    /// As [`Node::link`].
    pub fn link_text(&self) -> Result<Vec<u8>, Errno> {
        match self {
            Node::Pid(node) => node.link_text(),
            _ => match self.link()? {
                Link::Text(text) => Ok(text),
                Link::Jump(path) => Ok(path.text(&super::root()).0),
            },
        }
    }

    fn make(&self, text: &mut Text) -> Result<(), Errno> {
        match self {
            Node::Fixed(entry) => match &entry.what {
                What::Text(make) | What::Line(make, _) => make(text),
                What::Numbered(make, number) => make(text, *number),
                What::Fixed(fixed) => {
                    text.s(fixed);
                }
                What::Number(value, _) => {
                    text.dec(value.load(Relaxed)).c(b'\n');
                }
                What::Dir(_) | What::First(..) | What::Link(_) | What::Words(_) => return Err(Errno::EISDIR),
            },
            Node::ProcRoot => return Err(Errno::EISDIR),
            Node::Pid(node) => node.text(text)?,
            Node::Ptshare => {
                text.s(&crate::dev::ptshare::read_text());
            }
        }
        Ok(())
    }

    /// Reads from `pos` on.
    ///
    /// # Errors
    /// ESRCH when the process is gone; EFAULT, EACCES, EIO.
    pub fn read(&self, snapshot: &Snapshot, pos: u64, sink: &mut Sink) -> SysResult {
        if let Node::Pid(node) = self
            && let Some(result) = node.read_binary(pos, sink)
        {
            return result;
        }
        if let Node::Fixed(Entry { what: What::Words(read), .. }) = self {
            return read(pos, sink);
        }
        if let Node::Pid(node) = self
            && node.is_long()
        {
            return read_long(node, snapshot, pos, sink);
        }
        let kept = snapshot.0.lock().clone();
        let text = match kept {
            Some(text) if pos > 0 => text,
            _ => {
                crate::heap_room()?;
                let mut text = Text::new();
                self.make(&mut text)?;
                if text.is_cut() {
                    return Err(Errno::ENOMEM.into());
                }
                let text = Arc::new(text.into_bytes());
                let old = snapshot.0.lock().replace(text.clone());
                drop(old);
                text
            }
        };
        let rest = usize::try_from(pos).ok().and_then(|pos| text.get(pos..)).unwrap_or(&[]);
        let result = sink.put(rest).map(|_| ());
        total(sink.done(), result)
    }

    /// Writes: what is written is taken whole, whatever the position (which counts for a process's memory alone).
    ///
    /// # Errors
    /// EINVAL for what cannot be understood; EFAULT, EACCES, EIO.
    pub fn write(&self, source: &mut Source, pos: u64) -> SysResult {
        let len = source.left();
        if let Node::Pid(node) = self
            && let Some(result) = node.write_binary(source, pos)
        {
            return result;
        }
        let mut bytes = Vec::new();
        let take = len.min(WRITE_MAX) as usize;
        bytes.try_reserve_exact(take).map_err(|_| Errno::ENOMEM)?;
        bytes.resize(take, 0);
        let got = source.get(&mut bytes)? as usize;
        let line = bytes.get(..got).unwrap_or(&[]);
        match self {
            Node::Fixed(entry) => match &entry.what {
                What::Number(value, max) => {
                    let n = number(line).ok_or(Errno::EINVAL)?;
                    if n > *max {
                        return Err(Errno::EINVAL.into());
                    }
                    value.store(n, Relaxed);
                }
                What::Line(_, write) => write(line)?,
                _ => return Err(Errno::EACCES.into()),
            },
            Node::Pid(node) => node.write(line)?,
            Node::Ptshare => return crate::dev::ptshare::write(line),
            Node::ProcRoot => return Err(Errno::EISDIR.into()),
        }
        source.skip(source.left());
        Ok(len)
    }

    /// What is asked of an opener beyond permissions.
    ///
    /// # Errors
    /// EACCES where the file's permission bits have no write bit, even from root.
    pub fn check_open(&self, write: bool) -> Result<(), Errno> {
        if write && self.mode() & 0o222 == 0 { Err(Errno::EACCES) } else { Ok(()) }
    }
}

/// Reads from a text that is made as far as it is read: programs look for one line of a map of thousands.
fn read_long(node: &pid::PidNode, snapshot: &Snapshot, pos: u64, sink: &mut Sink) -> SysResult {
    crate::heap_room()?;
    let kept = snapshot.1.lock().take();
    let mut part = match kept {
        Some(part) if pos > 0 && part.base <= pos => part,
        _ => Part { base: 0, text: Text::new(), next: Some(0) },
    };
    part.extend(node, pos, sink.left().min(LONG_READ))?;
    let rest =
        usize::try_from(pos - part.base).ok().and_then(|at| part.text.bytes().get(at..)).unwrap_or(&[]);
    let page = rest.get(..LONG_READ as usize);
    let whole = page.and_then(|page| page.iter().rposition(|&byte| byte == b'\n'));
    let result = sink.put(whole.map_or(rest, |end| &rest[..=end])).map(|_| ());
    let old = snapshot.1.lock().replace(part);
    drop(old);
    total(sink.done(), result)
}

/// A decimal number, perhaps with blanks around it.
pub fn number(line: &[u8]) -> Option<u64> {
    let line = line.trim_ascii();
    if line.is_empty() {
        return None;
    }
    line.iter().try_fold(0u64, |n, b| {
        let digit = b.is_ascii_digit().then(|| u64::from(b - b'0'))?;
        n.checked_mul(10)?.checked_add(digit)
    })
}
