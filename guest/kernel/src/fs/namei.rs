//! Changes to the tree: create, link, unlink, rename (Linux fs/namei.c).
//!
//! Each takes the tree lock (`Rank::Namespace`), then looks and changes; a directory's own lock is held for one look or
//! one change, never two at a time. Permissions are checked by the callers of the small steps and inside the large ones.

use super::caller::{self, CAP_FSETID, CAP_MKNOD};
use super::dentry::{Dentry, Name, Path};
use super::inode::{
    Inode, Kind, NewInode, Regular, S_IFBLK, S_IFCHR, S_IFDIR, S_IFIFO, S_IFLNK, S_IFMT, S_IFREG, S_IFSOCK,
    S_ISGID, now,
};
use super::pathname;
use super::perm::{self, MAY_EXEC, MAY_WRITE};
use super::pipe::Pipe;
use super::socket::Place;
use super::walk::{Last, Walker};
use crate::task::Creds;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::Ordering::Relaxed;
use ptshare_abi::Errno;
use ptshare_sync::{Lock, Rank};

/// The tree lock: held over every change of names.
static TREE: Lock<()> = Lock::new(Rank::Namespace, ());

/// renameat2: fail if the new name exists.
pub const RENAME_NOREPLACE: u64 = 1;
/// renameat2: exchange the two names.
pub const RENAME_EXCHANGE: u64 = 2;

/// Owner, group and mode of a new inode in `dir`.
pub fn new_in(cred: &Creds, dir: &Inode, mode: u32) -> NewInode {
    let inherit = dir.mode() & S_ISGID != 0;
    let gid = if inherit { dir.gid() } else { cred.fsgid };
    let mut mode = mode;
    if inherit && mode & S_IFMT == S_IFDIR {
        mode |= S_ISGID;
    } else if inherit
        && mode & (S_ISGID | 0o010) == S_ISGID | 0o010
        && !cred.in_group(gid)
        && !cred.capable(CAP_FSETID)
    {
        mode &= !S_ISGID;
    }
    NewInode { mode, uid: cred.fsuid, gid, time_ns: now() }
}

/// Puts a name for an inode into a directory.
///
/// # Errors
/// EEXIST; ENOENT when the directory has been removed; EACCES where no names can be made.
pub fn add(parent: &Arc<Dentry>, name: &[u8], inode: Arc<Inode>) -> Result<Arc<Dentry>, Errno> {
    let lock = parent.inode.dir().ok_or(Errno::EACCES)?;
    let hash = pathname::hash(name);
    let is_dir = inode.is_dir();
    let dentry = Dentry::new(Some(parent.clone()), Name::Owned(name.to_vec()), inode);
    let tree = TREE.lock();
    let mut dir = lock.lock();
    if dir.dead {
        return Err(Errno::ENOENT);
    }
    if dir.entries.find(hash, |d| d.is_named(name)).is_some() {
        return Err(Errno::EEXIST);
    }
    dir.entries.insert(hash, dentry.clone());
    drop(dir);
    if is_dir {
        parent.inode.add_links(1);
    }
    drop(tree);
    Ok(dentry)
}

/// Makes a new inode under a name. `mode` has its type, and the umask applied.
///
/// # Errors
/// EACCES, EROFS, EEXIST, ENOENT, ENOMEM.
pub fn create(cred: &Creds, parent: &Path, name: &[u8], mode: u32, kind: Kind) -> Result<Path, Errno> {
    crate::heap_room()?;
    perm::writable(parent)?;
    perm::check(cred, parent.inode(), MAY_WRITE | MAY_EXEC)?;
    if parent.inode().dir().is_none() {
        // procfs says that there is no such name, sysfs that none may be made.
        return Err(match (parent.mount.sb.fstype, mode & S_IFMT) {
            ("proc", _) => Errno::ENOENT,
            (_, S_IFREG) => Errno::EACCES,
            _ => Errno::EPERM,
        });
    }
    let sb = &parent.mount.sb;
    if sb.inodes.load(Relaxed) >= sb.limit_inodes.load(Relaxed) {
        return Err(Errno::ENOSPC);
    }
    let inode = Inode::new(sb, sb.next_ino(), new_in(cred, parent.inode(), mode), kind);
    let dentry = add(&parent.dentry, name, inode)?;
    parent.inode().touch_mtime();
    Ok(Path { mount: parent.mount.clone(), dentry })
}

/// The directory and name at the end of a walk that is to make a new name.
///
/// # Errors
/// EEXIST for `/`, `.` and `..`; what the walk says. ENOENT for a name with a slash that is not to be a directory.
fn to_new(walker: &mut Walker, directory: bool) -> Result<Vec<u8>, Errno> {
    let tail = walker.walk_to_last()?;
    let Last::Name(start, end) = tail.last else { return Err(Errno::EEXIST) };
    if walker.look(start, end).is_ok() {
        return Err(Errno::EEXIST);
    }
    if tail.slash && !directory {
        return Err(Errno::ENOENT);
    }
    Ok(walker.name(start, end).to_vec())
}

/// mkdir.
///
/// # Errors
/// As [`create`].
pub fn mkdir(mut walker: Walker, mode: u32) -> Result<(), Errno> {
    let name = to_new(&mut walker, true)?;
    create(&walker.cred, &walker.at, &name, S_IFDIR | mode & 0o1777, Inode::empty_dir()).map(|_| ())
}

/// mknod.
///
/// # Errors
/// As [`create`]; EPERM for devices without CAP_MKNOD, and for directories; EINVAL for unknown types.
pub fn mknod(mut walker: Walker, mode: u32, rdev: u64) -> Result<(), Errno> {
    let perm_bits = mode & 0o7777;
    let (kind, file_type) = match mode & S_IFMT {
        0 | S_IFREG => (Kind::Regular(Regular::new()), S_IFREG),
        S_IFIFO => (Kind::Fifo(Arc::new(Pipe::new())), S_IFIFO),
        S_IFSOCK => (Kind::Socket(Place::default()), S_IFSOCK),
        t @ (S_IFCHR | S_IFBLK) => {
            caller::need(CAP_MKNOD)?;
            (Kind::Device(rdev), t)
        }
        S_IFDIR => return Err(Errno::EPERM),
        _ => return Err(Errno::EINVAL),
    };
    let name = to_new(&mut walker, false)?;
    let kind = match kind {
        Kind::Regular(_) => Kind::Regular(Regular::new_in(&walker.at.mount.sb)),
        other => other,
    };
    create(&walker.cred, &walker.at, &name, file_type | perm_bits, kind).map(|_| ())
}

/// A name for a socket (bind(2)). `mode` has the umask applied.
///
/// # Errors
/// As [`create`].
pub fn new_socket(mut walker: Walker, mode: u32, place: Place) -> Result<(), Errno> {
    let name = to_new(&mut walker, false)?;
    create(&walker.cred, &walker.at, &name, S_IFSOCK | mode, Kind::Socket(place)).map(|_| ())
}

/// symlink.
///
/// # Errors
/// As [`create`]; ENOENT for an empty target, ENAMETOOLONG.
pub fn symlink(mut walker: Walker, target: Vec<u8>) -> Result<(), Errno> {
    if target.is_empty() {
        return Err(Errno::ENOENT);
    }
    let name = to_new(&mut walker, false)?;
    if walker.at.mount.sb.huge.is_some() {
        // The target would be the content of its first page, and hugetlbfs has no write (`hugetlbfs_write_begin`).
        return Err(Errno::EINVAL);
    }
    let kind = Kind::Symlink(Name::Owned(target));
    create(&walker.cred, &walker.at, &name, S_IFLNK | 0o777, kind).map(|_| ())
}

/// link.
///
/// # Errors
/// EPERM for a directory, EXDEV, EMLINK, ENOENT for a file whose last name is gone; as [`create`].
pub fn link(old: &Path, mut walker: Walker, from_tmpfile: bool) -> Result<(), Errno> {
    let name = to_new(&mut walker, false)?;
    if !Arc::ptr_eq(&old.mount, &walker.at.mount) {
        return Err(Errno::EXDEV);
    }
    let inode = old.inode();
    if inode.is_dir() {
        return Err(Errno::EPERM);
    }
    perm::writable(&walker.at)?;
    perm::check(&walker.cred, walker.at.inode(), MAY_WRITE | MAY_EXEC)?;
    if inode.nlink() == 0 && !from_tmpfile {
        return Err(Errno::ENOENT);
    }
    if walker.at.inode().dir().is_none() {
        return Err(Errno::EPERM);
    }
    crate::heap_room()?;
    inode.add_links(1);
    if let Err(errno) = add(&walker.at.dentry, &name, inode.clone()) {
        inode.add_links(-1);
        return Err(errno);
    }
    inode.touch_ctime();
    walker.at.inode().touch_mtime();
    Ok(())
}

/// unlink and rmdir.
///
/// # Errors
/// unlink: EISDIR, ENOTDIR (a slash after a file's name). rmdir: ENOTDIR, ENOTEMPTY, EINVAL (`.`), EBUSY (`/`, a mount
/// point). Both: ENOENT, EACCES, EPERM, EROFS.
pub fn remove(mut walker: Walker, directory: bool) -> Result<(), Errno> {
    let tail = walker.walk_to_last()?;
    let Last::Name(start, end) = tail.last else {
        return Err(match (directory, tail.last) {
            (false, _) => Errno::EISDIR,
            (true, Last::Dot) => Errno::EINVAL,
            (true, Last::DotDot) => Errno::ENOTEMPTY,
            (true, _) => Errno::EBUSY,
        });
    };
    // Through no mount: what covers the name makes it busy.
    let name = walker.name(start, end).to_vec();
    let parent = &walker.at;
    let Some(lock) = parent.inode().dir() else {
        walker.look(start, end)?;
        return Err(Errno::EPERM);
    };
    let hash = pathname::hash(&name);
    let tree = TREE.lock();
    let found = lock.lock().entries.find(hash, |d| d.is_named(&name)).map(|(at, d)| (at, d.clone()));
    let (at, victim) = found.ok_or(Errno::ENOENT)?;
    perm::writable(parent)?;
    perm::may_delete(&walker.cred, parent.inode(), &victim.inode)?;
    match (directory, victim.inode.is_dir()) {
        (false, true) => return Err(Errno::EISDIR),
        (true, false) => return Err(Errno::ENOTDIR),
        (false, false) if tail.slash => return Err(Errno::ENOTDIR),
        _ => {}
    }
    if victim.mounts.load(Relaxed) != 0 {
        return Err(Errno::EBUSY);
    }
    bury(&victim)?;
    let entry = lock.lock().entries.remove(at);
    drop(entry);
    if directory {
        parent.inode().add_links(-1);
    }
    drop(tree);
    parent.inode().touch_mtime();
    Ok(())
}

/// Takes a name out of use, its directory entry apart. Under the tree lock.
fn bury(victim: &Arc<Dentry>) -> Result<(), Errno> {
    if let Some(lock) = victim.inode.dir() {
        let mut dir = lock.lock();
        if !dir.entries.is_empty() {
            return Err(Errno::ENOTEMPTY);
        }
        dir.dead = true;
        drop(dir);
        victim.inode.add_links(-2);
    } else {
        victim.inode.add_links(-1);
    }
    victim.set_unlinked();
    victim.inode.touch_ctime();
    Ok(())
}

/// Is `ancestor` the directory `of`, or above it?
fn is_above(ancestor: &Arc<Dentry>, of: &Arc<Dentry>) -> bool {
    let mut at = of.clone();
    loop {
        if Arc::ptr_eq(&at, ancestor) {
            return true;
        }
        match at.parent() {
            Some(parent) => at = parent,
            None => return false,
        }
    }
}

/// rename.
///
/// # Errors
/// As rename(2).
pub fn rename(mut from: Walker, mut to: Walker, flags: u64) -> Result<(), Errno> {
    let old_tail = from.walk_to_last()?;
    let new_tail = to.walk_to_last()?;
    if !Arc::ptr_eq(&from.at.mount, &to.at.mount) {
        return Err(Errno::EXDEV);
    }
    let (Last::Name(a, b), Last::Name(c, d)) = (old_tail.last, new_tail.last) else {
        return Err(if flags & RENAME_NOREPLACE != 0 && !matches!(new_tail.last, Last::Name(..)) {
            Errno::EEXIST
        } else {
            Errno::EBUSY
        });
    };
    perm::writable(&from.at)?;
    crate::heap_room()?;
    let (old_name, new_name) = (from.name(a, b).to_vec(), to.name(c, d).to_vec());
    let (old_dir, new_dir) = (&from.at.dentry, &to.at.dentry);
    let (Some(old_lock), Some(new_lock)) = (old_dir.inode.dir(), new_dir.inode.dir()) else {
        from.look(a, b)?;
        return Err(Errno::EPERM);
    };
    let tree = TREE.lock();
    let old = old_dir.child(&old_name).ok_or(Errno::ENOENT)?;
    let new = new_dir.child(&new_name);
    let exchange = flags & RENAME_EXCHANGE != 0;
    if new.is_some() && flags & RENAME_NOREPLACE != 0 {
        return Err(Errno::EEXIST);
    }
    if new.is_none() && exchange {
        return Err(Errno::ENOENT);
    }
    let old_is_dir = old.inode.is_dir();
    if !old_is_dir && (old_tail.slash || !exchange && new_tail.slash) {
        return Err(Errno::ENOTDIR);
    }
    if old_is_dir && is_above(&old, new_dir) {
        return Err(Errno::EINVAL);
    }
    if let Some(new) = &new {
        if exchange && new_tail.slash && !new.inode.is_dir() {
            return Err(Errno::ENOTDIR);
        }
        if is_above(new, old_dir) {
            return Err(if exchange { Errno::EINVAL } else { Errno::ENOTEMPTY });
        }
        if Arc::ptr_eq(&old.inode, &new.inode) {
            return Ok(());
        }
    }
    if new_lock.lock().dead {
        return Err(Errno::ENOENT);
    }
    let cred = &from.cred;
    perm::may_delete(cred, &old_dir.inode, &old.inode)?;
    match &new {
        Some(new) => {
            perm::may_delete(cred, &new_dir.inode, &new.inode)?;
            match (old_is_dir, new.inode.is_dir()) {
                (true, false) if !exchange => return Err(Errno::ENOTDIR),
                (false, true) if !exchange => return Err(Errno::EISDIR),
                _ => {}
            }
            if new.mounts.load(Relaxed) != 0 {
                return Err(Errno::EBUSY);
            }
        }
        None => perm::check(cred, &new_dir.inode, MAY_WRITE | MAY_EXEC)?,
    }
    if old.mounts.load(Relaxed) != 0 {
        return Err(Errno::EBUSY);
    }
    if old_is_dir && !Arc::ptr_eq(old_dir, new_dir) {
        perm::check(cred, &old.inode, MAY_WRITE)?;
    }
    let (old_hash, new_hash) = (pathname::hash(&old_name), pathname::hash(&new_name));
    match (&new, exchange) {
        (Some(new), true) => {
            swap_in(old_lock, old_hash, &old_name, new);
            swap_in(new_lock, new_hash, &new_name, &old);
            new.set_spot(old_dir.clone(), &old_name);
            count_subdirs(old_dir, new_dir, old_is_dir, new.inode.is_dir());
            new.inode.touch_ctime();
        }
        (Some(new), false) => {
            bury(new)?;
            take_out(old_lock, old_hash, &old_name);
            swap_in(new_lock, new_hash, &new_name, &old);
            if new.inode.is_dir() {
                new_dir.inode.add_links(-1);
            }
            count_subdirs(old_dir, new_dir, old_is_dir, false);
        }
        (None, _) => {
            take_out(old_lock, old_hash, &old_name);
            new_lock.lock().entries.insert(new_hash, old.clone());
            count_subdirs(old_dir, new_dir, old_is_dir, false);
        }
    }
    old.set_spot(new_dir.clone(), &new_name);
    drop(tree);
    old.inode.touch_ctime();
    old_dir.inode.touch_mtime();
    new_dir.inode.touch_mtime();
    Ok(())
}

fn count_subdirs(old_dir: &Dentry, new_dir: &Dentry, went: bool, came: bool) {
    let change = i32::from(went) - i32::from(came);
    old_dir.inode.add_links(-change);
    new_dir.inode.add_links(change);
}

fn take_out(lock: &Lock<super::inode::Dir>, hash: u32, name: &[u8]) {
    let mut dir = lock.lock();
    let at = dir.entries.find(hash, |d| d.is_named(name)).map(|(at, _)| at);
    let entry = at.and_then(|at| dir.entries.remove(at));
    drop(dir);
    drop(entry);
}

fn swap_in(lock: &Lock<super::inode::Dir>, hash: u32, name: &[u8], dentry: &Arc<Dentry>) {
    let mut dir = lock.lock();
    let at = dir.entries.find(hash, |d| d.is_named(name)).map(|(at, _)| at);
    let entry = at.and_then(|at| dir.entries.replace(at, dentry.clone()));
    drop(dir);
    drop(entry);
}
