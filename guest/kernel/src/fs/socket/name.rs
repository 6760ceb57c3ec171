//! Addresses of Unix sockets: names in the tree, and names in a list of their own that begin with a NUL ("abstract").

use super::Socket;
use crate::fs::inode::Kind;
use crate::fs::perm::{self, MAY_WRITE};
use crate::fs::walk::{AT_FDCWD, Walker};
use crate::fs::{caller, namei};
use crate::task::current;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, Ordering::Relaxed};
use ptshare_abi::Errno;
use ptshare_sync::{Lock, Rank};

/// The socket behind an inode, for as long as it is open.
pub struct Place(Lock<Weak<Socket>>);

impl Default for Place {
    fn default() -> Self {
        Place(Lock::new(Rank::Registry, Weak::new()))
    }
}

/// Abstract names in use. A name goes with its socket.
static ABSTRACT: Lock<Vec<(Vec<u8>, Weak<Socket>)>> = Lock::new(Rank::Registry, Vec::new());
static NEXT_AUTOMATIC: AtomicU32 = AtomicU32::new(1);

/// Gives a socket an address: the bytes of `sun_path`, without the NUL that ends a path; an empty one asks for an
/// abstract name that is free.
///
/// # Errors
/// EINVAL for a socket that has one; EADDRINUSE; as mknod(2).
pub fn bind(socket: &Arc<Socket>, name: Vec<u8>) -> Result<(), Errno> {
    if !socket.name().is_empty() {
        return Err(Errno::EINVAL);
    }
    crate::heap_room()?;
    match name.first() {
        Some(0) => bind_abstract(socket, name),
        Some(_) => bind_path(socket, name),
        None => loop {
            let number = NEXT_AUTOMATIC.fetch_add(1, Relaxed) & 0xf_ffff;
            let digits = alloc::format!("\0{number:05x}");
            match bind_abstract(socket, digits.into_bytes()) {
                Err(Errno::EADDRINUSE) => {}
                result => return result,
            }
        },
    }
}

fn bind_abstract(socket: &Arc<Socket>, name: Vec<u8>) -> Result<(), Errno> {
    let copy = name.clone();
    let mut gone = Vec::new();
    let taken = {
        let mut list = ABSTRACT.lock();
        let mut at = 0;
        while at < list.len() {
            if list[at].1.strong_count() == 0 { gone.push(list.swap_remove(at)) } else { at += 1 }
        }
        let taken = list.iter().any(|(used, _)| *used == copy);
        if !taken {
            list.push((copy, Arc::downgrade(socket)));
        }
        taken
    };
    drop(gone);
    if taken { Err(Errno::EADDRINUSE) } else { socket.set_name(name) }
}

fn bind_path(socket: &Arc<Socket>, mut name: Vec<u8>) -> Result<(), Errno> {
    let walker = Walker::new(AT_FDCWD, name.clone())?;
    let mode = 0o777 & !current().process.fs().umask();
    let place = Place(Lock::new(Rank::Registry, Arc::downgrade(socket)));
    namei::new_socket(walker, mode, place).map_err(|errno| match errno {
        Errno::EEXIST => Errno::EADDRINUSE,
        other => other,
    })?;
    name.push(0);
    socket.set_name(name)
}

/// The socket at an address.
///
/// # Errors
/// ECONNREFUSED where nobody is; EACCES; what the walk says.
pub fn find(name: &[u8]) -> Result<Arc<Socket>, Errno> {
    if name.first() == Some(&0) {
        let list = ABSTRACT.lock();
        let found = list.iter().find(|(used, _)| used == name).map(|(_, socket)| socket.clone());
        drop(list);
        return found.and_then(|weak| weak.upgrade()).ok_or(Errno::ECONNREFUSED);
    }
    let path = Walker::new(AT_FDCWD, name.to_vec())?.finish(true)?;
    perm::check_path(&caller::creds(), &path, MAY_WRITE)?;
    let Kind::Socket(place) = &path.inode().kind else { return Err(Errno::ECONNREFUSED) };
    let weak = place.0.lock().clone();
    weak.upgrade().ok_or(Errno::ECONNREFUSED)
}
