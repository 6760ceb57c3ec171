//! What the three kinds of System V objects have in common: keys, identifiers, owners, permissions (Linux: ipc/util.c).

use crate::task::creds::{CAP_SYS_ADMIN, Creds};
use crate::task::current;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use ptshare_abi::Errno;

/// The key of an object that no key finds.
pub const IPC_PRIVATE: i32 = 0;
/// Make the object if there is none.
pub const IPC_CREAT: u64 = 0o1000;
/// With [`IPC_CREAT`]: fail if there is one.
pub const IPC_EXCL: u64 = 0o2000;
/// Do not wait.
pub const IPC_NOWAIT: u64 = 0o4000;
/// Destroy the object.
pub const IPC_RMID: u64 = 0;
/// Set owner, group and mode.
pub const IPC_SET: u64 = 1;
/// Tell about the object.
pub const IPC_STAT: u64 = 2;
/// Tell about the limits.
pub const IPC_INFO: u64 = 3;
/// Bit that asks for the 64-bit structures; always set in effect on x86-64.
pub const IPC_64: u64 = 0x100;

/// Permission to read, as in a mode's lowest digit.
pub const READ: u32 = 4;
/// Permission to write or alter.
pub const WRITE: u32 = 2;

const CAP_IPC_OWNER: u32 = 15;
/// Bits of an identifier that are the place in the table.
const INDEX_BITS: u32 = 15;
const INDEX_MASK: u64 = (1 << INDEX_BITS) - 1;
/// Highest number of objects of one kind (`IPCMNI`).
pub const IPCMNI: u64 = 1 << INDEX_BITS;

/// Now, in seconds since 1970.
pub fn seconds() -> u64 {
    ptshare_machine::time::realtime_ns() / 1_000_000_000
}

/// Who may do what with an object.
#[derive(Clone, Copy, Debug)]
pub struct Perm {
    /// Its key; [`IPC_PRIVATE`] also once it is marked for destruction.
    pub key: i32,
    /// Which object of this place in the table it is.
    pub seq: u16,
    /// Owner.
    pub uid: u32,
    /// Owner's group.
    pub gid: u32,
    /// Creator.
    pub cuid: u32,
    /// Creator's group.
    pub cgid: u32,
    /// Permission bits, and flags of the kind above them.
    pub mode: u32,
}

impl Perm {
    /// What a new object of the caller's gets.
    pub fn new(key: i32, flags: u64) -> Perm {
        let creds = current().process.creds();
        let (uid, gid) = (creds.euid, creds.egid);
        Perm { key, seq: 0, uid, gid, cuid: uid, cgid: gid, mode: (flags & 0o777) as u32 }
    }

    /// May the caller do `want` ([`READ`], [`WRITE`])? `ipcperms`.
    pub fn permits(&self, want: u32) -> bool {
        let creds = current().process.creds();
        let member = |gid: u32| creds.egid == gid || creds.groups.contains(&gid);
        let shift = if creds.euid == self.uid || creds.euid == self.cuid {
            6
        } else if member(self.gid) || member(self.cgid) {
            3
        } else {
            0
        };
        want & !(self.mode >> shift) & 7 == 0 || creds.capable(CAP_IPC_OWNER)
    }

    /// [`Perm::permits`] as a result.
    ///
    /// # Errors
    /// EACCES.
    pub fn check(&self, want: u32) -> Result<(), Errno> {
        if self.permits(want) { Ok(()) } else { Err(Errno::EACCES) }
    }

    /// Checks what the flags of a get call ask for.
    ///
    /// # Errors
    /// EACCES.
    pub fn check_flags(&self, flags: u64) -> Result<(), Errno> {
        self.check(((flags >> 6 | flags >> 3 | flags) & 7) as u32)
    }

    /// May the caller change or destroy the object?
    ///
    /// # Errors
    /// EPERM.
    pub fn check_owner(&self) -> Result<(), Errno> {
        let creds: &Creds = &current().process.creds();
        let owner = creds.euid == self.uid || creds.euid == self.cuid;
        if owner || creds.capable(CAP_SYS_ADMIN) { Ok(()) } else { Err(Errno::EPERM) }
    }

    /// `struct ipc64_perm` (include/uapi/asm-generic/ipcbuf.h) as words.
    pub fn words(&self) -> [u64; 6] {
        let pair = |low: u32, high: u32| u64::from(low) | u64::from(high) << 32;
        [
            pair(self.key as u32, self.uid),
            pair(self.gid, self.cuid),
            pair(self.cgid, self.mode),
            u64::from(self.seq),
            0,
            0,
        ]
    }

    /// Takes owner, group and mode from a `struct ipc64_perm` of the caller's (IPC_SET).
    pub fn set_from(&mut self, words: &[u64]) {
        let word = |at: usize| words.get(at).copied().unwrap_or(0);
        self.uid = (word(0) >> 32) as u32;
        self.gid = word(1) as u32;
        self.mode = self.mode & !0o777 | (word(2) >> 32) as u32 & 0o777;
    }
}

/// An object with a [`Perm`].
pub trait Kept {
    /// Its permissions.
    fn perm(&self) -> &Perm;
    /// Its permissions, to change.
    fn perm_mut(&mut self) -> &mut Perm;
}

/// All objects of one kind.
pub struct Table<T> {
    slots: Vec<Option<T>>,
    seq: u16,
}

impl<T: Kept> Default for Table<T> {
    fn default() -> Self {
        Table::new()
    }
}

impl<T: Kept> Table<T> {
    /// No objects.
    pub const fn new() -> Self {
        Table { slots: Vec::new(), seq: 0 }
    }

    /// The identifier of an object at a place.
    pub fn id(index: usize, seq: u16) -> u64 {
        u64::from(seq & 0x7fff) << INDEX_BITS | index as u64
    }

    /// The object that a key finds, with its identifier.
    pub fn by_key(&self, key: i32) -> Option<(u64, &T)> {
        self.iter().find(|(_, object)| object.perm().key == key)
    }

    /// The objects, with their identifiers.
    pub fn iter(&self) -> impl Iterator<Item = (u64, &T)> {
        self.slots.iter().enumerate().filter_map(|(index, slot)| {
            let object = slot.as_ref()?;
            Some((Self::id(index, object.perm().seq), object))
        })
    }

    /// The objects, to change.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.slots.iter_mut().flatten()
    }

    /// The object with an identifier.
    ///
    /// # Errors
    /// EINVAL for none there, or another in its place: EIDRM is for callers that race with the removal
    /// (`ipc_obtain_object_check`).
    pub fn get(&mut self, id: u64) -> Result<&mut T, Errno> {
        if id > i32::MAX as u64 {
            return Err(Errno::EINVAL);
        }
        let seq = (id >> INDEX_BITS) as u16;
        match self.slots.get_mut((id & INDEX_MASK) as usize) {
            Some(Some(object)) if object.perm().seq == seq => Ok(object),
            _ => Err(Errno::EINVAL),
        }
    }

    /// The object at a place, with its identifier (the STAT commands that take a place).
    ///
    /// # Errors
    /// EINVAL for none there.
    pub fn by_index(&mut self, index: u64) -> Result<(u64, &mut T), Errno> {
        let slot = usize::try_from(index).ok().and_then(|index| self.slots.get_mut(index));
        match slot {
            Some(Some(object)) => Ok((Self::id(index as usize, object.perm().seq), object)),
            _ => Err(Errno::EINVAL),
        }
    }

    /// Adds an object: at the lowest free place, or as `next` (kernel.*_next_id) asks, which holds once. Gives its
    /// identifier.
    ///
    /// # Errors
    /// ENOSPC for more than `max` objects; ENOMEM. The object is dropped then.
    pub fn add(&mut self, mut object: T, max: u64, next: &AtomicI64) -> Result<u64, Errno> {
        if self.iter().count() as u64 >= max.min(IPCMNI) {
            return Err(Errno::ENOSPC);
        }
        let wanted = u64::try_from(next.swap(-1, Relaxed)).ok();
        let from = wanted.map_or(0, |id| (id & INDEX_MASK) as usize);
        let seq = match wanted {
            Some(id) => (id >> INDEX_BITS) as u16 & 0x7fff,
            None => {
                let seq = self.seq;
                self.seq = self.seq.wrapping_add(1) & 0x7fff;
                seq
            }
        };
        let free = self.slots.iter().enumerate().skip(from).find(|(_, slot)| slot.is_none());
        let index = free.map_or(self.slots.len().max(from), |(index, _)| index);
        if index as u64 >= IPCMNI {
            return Err(Errno::ENOSPC);
        }
        if index >= self.slots.len() {
            self.slots.try_reserve(index + 1 - self.slots.len()).map_err(|_| Errno::ENOMEM)?;
            self.slots.resize_with(index + 1, || None);
        }
        object.perm_mut().seq = seq;
        if let Some(slot) = self.slots.get_mut(index) {
            *slot = Some(object);
        }
        Ok(Self::id(index, seq))
    }

    /// Takes an object out for IPC_RMID.
    ///
    /// # Errors
    /// As [`Table::get`]; EPERM unless the caller owns it.
    pub fn remove(&mut self, id: u64) -> Result<T, Errno> {
        self.get(id)?.perm().check_owner()?;
        self.slots.get_mut((id & INDEX_MASK) as usize).and_then(Option::take).ok_or(Errno::EINVAL)
    }

    /// Takes out what is no more.
    pub fn retain(&mut self, mut keep: impl FnMut(&T) -> bool) {
        for slot in &mut self.slots {
            if slot.as_ref().is_some_and(|object| !keep(object)) {
                *slot = None;
            }
        }
    }

    /// Highest place in use (what the INFO commands answer).
    pub fn highest_index(&self) -> u64 {
        self.slots.iter().rposition(Option::is_some).unwrap_or(0) as u64
    }
}

/// A limit that /proc/sys/kernel shows and sets.
pub type Setting = AtomicU64;
