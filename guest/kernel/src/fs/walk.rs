//! Path walk: from a text to a [`Path`] (path_resolution(7)).
//!
//! A [`Walker`] stands in a directory with the rest of the text before it. It stops before the last component, so that
//! open, create, unlink and rename can each treat that one as they must.

use super::caller;
use super::dentry::Path;
use super::inode::Kind;
use super::mount;
use super::pathname::{self, LINKS_MAX, NAME_MAX, PATH_MAX};
use super::perm::{self, MAY_EXEC};
use crate::task::{Creds, current};
use alloc::sync::Arc;
use alloc::vec::Vec;
use ptshare_abi::Errno;

/// `dirfd` that stands for the working directory.
pub const AT_FDCWD: i32 = -100;

/// The last component of a path.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Last {
    /// Nothing is left: the walker stands on the result itself ("/", or a jump through a magic link).
    Here,
    /// `.`
    Dot,
    /// `..`
    DotDot,
    /// A name: bytes `.0 .. .1` of the text.
    Name(usize, usize),
}

/// The last component, and whether slashes follow it.
#[derive(Clone, Copy, Debug)]
pub struct Tail {
    /// Which.
    pub last: Last,
    /// A directory is asked for.
    pub slash: bool,
}

/// What a symbolic link leads to.
pub enum Link {
    /// A text to walk.
    Text(Vec<u8>),
    /// A place (the links in /proc/PID).
    Jump(Path),
}

/// A walk under way.
pub struct Walker {
    /// Where it stands.
    pub at: Path,
    root: Path,
    text: Vec<u8>,
    pos: usize,
    links: u32,
    /// On whose behalf.
    pub cred: Arc<Creds>,
}

/// The directory that a `dirfd` argument names.
///
/// # Errors
/// EBADF.
pub fn dir_of(dirfd: i32) -> Result<Path, Errno> {
    let process = &current().process;
    if dirfd == AT_FDCWD {
        return Ok(process.fs().cwd());
    }
    if dirfd < 0 {
        return Err(Errno::EBADF);
    }
    Ok(process.files().get(dirfd)?.path.clone())
}

impl Walker {
    /// A walk of `text` from the directory `dirfd`, or from the root if it begins with a slash.
    ///
    /// # Errors
    /// ENOENT for an empty text, ENAMETOOLONG, EBADF.
    pub fn new(dirfd: i32, text: Vec<u8>) -> Result<Walker, Errno> {
        if text.is_empty() {
            return Err(Errno::ENOENT);
        }
        if text.len() >= PATH_MAX {
            return Err(Errno::ENAMETOOLONG);
        }
        let root = current().process.fs().root();
        let at = if text[0] == b'/' { root.clone() } else { dir_of(dirfd)? };
        Ok(Walker { at, root, text, pos: 0, links: 0, cred: caller::creds() })
    }

    /// Walks to before the last component, and looks whether it stands in a directory that may be searched.
    ///
    /// # Errors
    /// ENOENT, ENOTDIR, EACCES, ELOOP, ENAMETOOLONG.
    pub fn walk_to_last(&mut self) -> Result<Tail, Errno> {
        loop {
            let Some(c) = pathname::component(&self.text, self.pos) else {
                return Ok(Tail { last: Last::Here, slash: true });
            };
            if c.end - c.start > NAME_MAX {
                return Err(Errno::ENAMETOOLONG);
            }
            if !self.at.inode().is_dir() {
                return Err(Errno::ENOTDIR);
            }
            perm::check(&self.cred, self.at.inode(), MAY_EXEC)?;
            self.pos = c.next;
            let last = match &self.text[c.start..c.end] {
                b"." => Last::Dot,
                b".." => Last::DotDot,
                _ => Last::Name(c.start, c.end),
            };
            if c.last {
                return Ok(Tail { last, slash: c.slash });
            }
            match last {
                Last::Here | Last::Dot => {}
                Last::DotDot => self.up(),
                Last::Name(start, end) => {
                    let next = lookup(&self.at, &self.text[start..end])?;
                    if next.inode().is_symlink() {
                        self.follow(&next, true)?;
                    } else {
                        self.at = next;
                    }
                }
            }
        }
    }

    /// The bytes of a name found by [`Walker::walk_to_last`].
    pub fn name(&self, start: usize, end: usize) -> &[u8] {
        self.text.get(start..end).unwrap_or(&[])
    }

    /// Looks a name up where the walker stands.
    ///
    /// # Errors
    /// ENOENT.
    pub fn look(&self, start: usize, end: usize) -> Result<Path, Errno> {
        lookup(&self.at, self.name(start, end))
    }

    /// `..`, which ends at the walker's root and climbs through mount points.
    pub fn up(&mut self) {
        // Through the mounts first: a root may be the root of a mount.
        let mut at = self.at.clone();
        loop {
            if at.is(&self.root) {
                return;
            }
            if !Arc::ptr_eq(&at.dentry, &at.mount.root) {
                break;
            }
            match at.mount.mountpoint() {
                Some(above) => at = above,
                None => return,
            }
        }
        if let Some(parent) = at.dentry.parent() {
            self.at = mount::cross(Path { mount: at.mount, dentry: parent });
        }
    }

    /// Goes where a symbolic link leads. `slash`: more follows, or a directory is asked for.
    ///
    /// # Errors
    /// ELOOP, ENOENT (an empty target), ENOTDIR, and what a magic link says.
    pub fn follow(&mut self, link: &Path, slash: bool) -> Result<(), Errno> {
        self.links += 1;
        if self.links > LINKS_MAX {
            return Err(Errno::ELOOP);
        }
        match read_link(link)? {
            Link::Text(target) => {
                if target.is_empty() {
                    return Err(Errno::ENOENT);
                }
                if target[0] == b'/' {
                    self.at = self.root.clone();
                }
                self.text = pathname::splice(&target, &self.text[self.pos..], slash);
                self.pos = 0;
            }
            Link::Jump(place) => {
                if slash && !place.inode().is_dir() {
                    return Err(Errno::ENOTDIR);
                }
                self.at = place;
            }
        }
        Ok(())
    }

    /// Walks to the end. `follow`: a symbolic link at the end is followed (always, when a slash follows it).
    ///
    /// # Errors
    /// As [`Walker::walk_to_last`].
    pub fn finish(mut self, follow: bool) -> Result<Path, Errno> {
        loop {
            let tail = self.walk_to_last()?;
            match tail.last {
                Last::Here | Last::Dot => return Ok(self.at),
                Last::DotDot => {
                    self.up();
                    return Ok(self.at);
                }
                Last::Name(start, end) => {
                    let next = self.look(start, end)?;
                    if next.inode().is_symlink() && (follow || tail.slash) {
                        self.follow(&next, tail.slash)?;
                        continue;
                    }
                    if tail.slash && !next.inode().is_dir() {
                        return Err(Errno::ENOTDIR);
                    }
                    return Ok(next);
                }
            }
        }
    }
}

/// The entry `name` of a directory, through whatever is mounted on it.
///
/// # Errors
/// ENOENT, ENOTDIR; ESRCH and the like from /proc.
pub fn lookup(dir: &Path, name: &[u8]) -> Result<Path, Errno> {
    let dentry = match &dir.inode().kind {
        Kind::Dir(_) => dir.dentry.child(name).ok_or(Errno::ENOENT)?,
        Kind::Virtual(node) => node.lookup(&dir.dentry, name)?,
        _ => return Err(Errno::ENOTDIR),
    };
    Ok(mount::cross(Path { mount: dir.mount.clone(), dentry }))
}

/// What a symbolic link leads to.
///
/// # Errors
/// EINVAL when it is none; ENOENT and the like from /proc.
pub fn read_link(link: &Path) -> Result<Link, Errno> {
    match &link.inode().kind {
        Kind::Symlink(target) => {
            link.inode().touch_atime();
            Ok(Link::Text(target.to_vec()))
        }
        Kind::Virtual(node) => node.link(),
        _ => Err(Errno::EINVAL),
    }
}

/// Resolves a path argument. `empty_ok`: an empty text names `dirfd` itself (AT_EMPTY_PATH).
///
/// # Errors
/// As [`Walker::finish`].
pub fn resolve(dirfd: i32, text: Vec<u8>, follow: bool, empty_ok: bool) -> Result<Path, Errno> {
    if text.is_empty() && empty_ok {
        return dir_of(dirfd);
    }
    Walker::new(dirfd, text)?.finish(follow)
}
