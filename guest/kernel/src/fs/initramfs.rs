//! The first content of the root directory: the initramfs, unpacked at boot.
//!
//! Names and inodes are made at once, as lean as they come, because each of the kernel's instructions is dear; the bytes
//! of files stay where the archive has them until a page of them is touched.

use super::cpio::{Archive, Record};
use super::dentry::{Dentry, Name, Path};
use super::device;
use super::inode::{
    Inode, Kind, NewInode, Regular, S_IFBLK, S_IFCHR, S_IFDIR, S_IFIFO, S_IFLNK, S_IFMT, S_IFREG,
};
use super::pathname::{self, NAME_MAX};
use super::pipe::Pipe;
use super::superblock::SuperBlock;
use alloc::sync::Arc;
use alloc::vec::Vec;
use ptshare_abi::Errno;
use ptshare_machine::boot;

struct Unpacker<'a> {
    root: &'a Path,
    /// The directory of the last record, and its path: neighbours in an archive share it.
    last: (&'static [u8], Arc<Dentry>),
    /// Hashes of the names in that directory, as bits: a clear bit saves looking whether a name is there already.
    seen: [u64; SEEN_WORDS],
    /// Inode numbers of the archive with more than one link.
    links: Vec<(u32, Arc<Dentry>)>,
}

/// Words of [`Unpacker::seen`].
const SEEN_WORDS: usize = 16;

/// Unpacks the initramfs below `root`. What cannot be understood ends it with a line in the log.
pub fn unpack(root: &Path) {
    let info = boot::info();
    let mut archive = Archive::new(info.initramfs);
    let mut unpacker =
        Unpacker { root, last: (b"", root.dentry.clone()), seen: [0; SEEN_WORDS], links: Vec::new() };
    loop {
        let at = archive.position();
        match archive.next() {
            None => return,
            Some(Ok(record)) => {
                if let Err(errno) = unpacker.place(&record, info.initramfs_pa) {
                    let name = core::str::from_utf8(record.name).unwrap_or("(not text)");
                    klog!(2, "initramfs: {name}: {errno:?}");
                }
            }
            Some(Err(error)) => {
                klog!(1, "initramfs: malformed at byte {at}: {error:?}; the rest is ignored");
                return;
            }
        }
    }
}

impl<'a> Unpacker<'a> {
    fn place(&mut self, record: &Record<'static>, archive_pa: u64) -> Result<(), Errno> {
        let mut path = record.name;
        while let [b'/', rest @ ..] | [b'.', b'/', rest @ ..] = path {
            path = rest;
        }
        if path.is_empty() || path == b"." {
            self.root.inode().set_permissions(record.mode);
            return Ok(());
        }
        let slash = path.iter().rposition(|b| *b == b'/');
        let (dir_path, name) = match slash {
            Some(at) => (&path[..at], &path[at + 1..]),
            None => (&path[..0], path),
        };
        if name.is_empty() || name.len() > NAME_MAX || name == b".." {
            return Err(Errno::EINVAL);
        }
        if self.last.0 != dir_path {
            self.last = (dir_path, self.directory(dir_path)?);
            let empty = self.last.1.inode.dir().is_some_and(|dir| dir.lock().entries.is_empty());
            self.seen = if empty { [0; SEEN_WORDS] } else { [u64::MAX; SEEN_WORDS] };
        }
        let dir = self.last.1.clone();
        let hash = pathname::hash(name);
        let bit = 1 << (hash >> 1 & 63);
        let seen = &mut self.seen[(hash >> 7) as usize % SEEN_WORDS];
        let maybe_there = *seen & bit != 0;
        *seen |= bit;
        let old = if maybe_there { dir.child(name) } else { None };
        if let Some(old) = old {
            if old.inode.is_dir() && record.mode & S_IFMT == S_IFDIR {
                old.inode.set_permissions(record.mode);
                return Ok(());
            }
            // Written twice: the later one counts, as in Linux's unpacker.
            if old.inode.is_dir() {
                return Err(Errno::EEXIST);
            }
            remove(&dir, name, hash);
        }
        let linked = record.nlink > 1 && record.mode & S_IFMT == S_IFREG;
        let first = self.links.iter().find(|(ino, _)| linked && *ino == record.ino);
        if let Some((_, first)) = first {
            // The data stand with one of the names, in most archives the last.
            if let (false, Some(regular)) = (record.data.is_empty(), first.inode.regular()) {
                regular.set_initramfs(archive_pa + record.data_at as u64, record.data.len() as u64);
            }
            first.inode.add_links(1);
            insert_hashed(&dir, name, hash, first.inode.clone());
            return Ok(());
        }
        let kind = match record.mode & S_IFMT {
            S_IFREG => {
                let pa = archive_pa + record.data_at as u64;
                Kind::Regular(Regular::from_initramfs(pa, record.data.len() as u64))
            }
            S_IFDIR => Inode::empty_dir(),
            S_IFLNK => Kind::Symlink(Name::Borrowed(record.data)),
            S_IFCHR | S_IFBLK => Kind::Device(device::makedev(record.rdev.0.into(), record.rdev.1.into())),
            S_IFIFO => Kind::Fifo(Arc::new(Pipe::new())),
            _ => return Err(Errno::EINVAL),
        };
        let new = NewInode {
            mode: record.mode & (S_IFMT | 0o7777),
            uid: record.uid,
            gid: record.gid,
            time_ns: i64::from(record.mtime) * 1_000_000_000,
        };
        let sb = &self.root.mount.sb;
        let dentry = insert_hashed(&dir, name, hash, Inode::new(sb, sb.next_ino(), new, kind));
        if linked {
            self.links.push((record.ino, dentry));
        }
        Ok(())
    }

    /// The directory with this path below the root; what is missing of it is made.
    fn directory(&self, path: &'static [u8]) -> Result<Arc<Dentry>, Errno> {
        let mut at = self.root.dentry.clone();
        let mut pos = 0;
        while let Some(c) = pathname::component(path, pos) {
            pos = c.next;
            let name = &path[c.start..c.end];
            if name == b"." {
                continue;
            }
            let next = at.child(name);
            at = match next {
                Some(next) => next,
                None => make_dir(&self.root.mount.sb, &at, name, 0o755),
            };
            if !at.inode.is_dir() {
                return Err(Errno::ENOTDIR);
            }
        }
        Ok(at)
    }
}

/// Makes a directory of the kernel's own.
pub fn make_dir(sb: &Arc<SuperBlock>, dir: &Arc<Dentry>, name: &'static [u8], mode: u32) -> Arc<Dentry> {
    let new = NewInode { mode: S_IFDIR | mode, uid: 0, gid: 0, time_ns: dir.inode.times()[1] };
    insert(dir, name, Inode::new(sb, sb.next_ino(), new, Inode::empty_dir()))
}

/// Puts a new name into a directory; the caller knows that there is none like it. Nobody else runs yet, or the
/// directory is not to be seen yet.
pub fn insert(dir: &Arc<Dentry>, name: &'static [u8], inode: Arc<Inode>) -> Arc<Dentry> {
    insert_hashed(dir, name, pathname::hash(name), inode)
}

fn insert_hashed(dir: &Arc<Dentry>, name: &'static [u8], hash: u32, inode: Arc<Inode>) -> Arc<Dentry> {
    if inode.is_dir() {
        dir.inode.add_links(1);
    }
    let dentry = Dentry::new(Some(dir.clone()), Name::Borrowed(name), inode);
    if let Some(lock) = dir.inode.dir() {
        lock.lock().entries.insert(hash, dentry.clone());
    }
    dentry
}

fn remove(dir: &Arc<Dentry>, name: &[u8], hash: u32) {
    let Some(lock) = dir.inode.dir() else { return };
    let mut dir = lock.lock();
    let at = dir.entries.find(hash, |d| d.is_named(name)).map(|(at, _)| at);
    let gone = at.and_then(|at| dir.entries.remove(at));
    drop(dir);
    drop(gone);
}
