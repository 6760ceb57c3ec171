//! Files without a name: memfd_create(2), O_TMPFILE, pipes, event counters; and seals.

use super::dentry::{Dentry, Name, Path};
use super::file::{File, O_RDWR, Ops};
use super::inode::{Inode, Kind, NewInode, Regular, S_IFREG, now};
use super::superblock::SuperBlock;
use super::{caller, internal_mount};
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::Ordering::Relaxed;
use ptshare_abi::Errno;
use ptshare_machine::Machine;
use ptshare_mm::hugetlb::{HugeSize, default_size, has_size};

/// No more seals.
pub const F_SEAL_SEAL: u32 = 1;
/// May not get shorter.
pub const F_SEAL_SHRINK: u32 = 2;
/// May not get longer.
pub const F_SEAL_GROW: u32 = 4;
/// May not be written.
pub const F_SEAL_WRITE: u32 = 8;
/// May not be written through new openings.
pub const F_SEAL_FUTURE_WRITE: u32 = 0x10;
const F_SEAL_EXEC: u32 = 0x20;
const F_SEAL_ALL: u32 = 0x3f;

const MFD_CLOEXEC: u32 = 1;
const MFD_ALLOW_SEALING: u32 = 2;
const MFD_HUGETLB: u32 = 4;
const MFD_NOEXEC_SEAL: u32 = 8;
const MFD_EXEC: u32 = 0x10;
const MFD_HUGE_BITS: u32 = 0x3f << 26;

/// A path outside the tree with this name, on the kernel's internal mount.
pub fn nameless(name: &[u8], mode: u32, kind: Kind) -> Path {
    let mount = internal_mount();
    let sb: &Arc<SuperBlock> = &mount.sb;
    let ino = sb.next_ino();
    let cred = caller::creds();
    let new = NewInode { mode, uid: cred.fsuid, gid: cred.fsgid, time_ns: now() };
    let inode = Inode::new(sb, ino, new, kind);
    let mut full: Vec<u8> = name.to_vec();
    if full.ends_with(b":") {
        let mut text = super::text::Text::new();
        text.s("[").dec(ino).s("]");
        full.extend_from_slice(text.bytes());
    }
    Path { mount, dentry: Dentry::new(None, Name::Owned(full), inode) }
}

/// memfd_create(2): the file, and whether its descriptor is to be closed on exec.
///
/// # Errors
/// EINVAL for unknown flags or a name that is too long.
pub fn create(name: &[u8], flags: u32) -> Result<(Arc<File>, bool), Errno> {
    let known = MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_HUGETLB | MFD_NOEXEC_SEAL | MFD_EXEC;
    let size_bits = if flags & MFD_HUGETLB != 0 { MFD_HUGE_BITS } else { 0 };
    if flags & !(known | size_bits) != 0 || flags & MFD_EXEC != 0 && flags & MFD_NOEXEC_SEAL != 0 {
        return Err(Errno::EINVAL);
    }
    let hugetlb = match flags >> 26 {
        _ if flags & MFD_HUGETLB == 0 => None,
        0 => Some(default_size(&Machine)),
        shift => {
            let size = HugeSize::from_shift(shift.into());
            Some(size.filter(|size| has_size(&Machine, *size)).ok_or(Errno::ENODEV)?)
        }
    };
    // Room for "memfd:" and a NUL in NAME_MAX.
    if name.len() > 249 {
        return Err(Errno::EINVAL);
    }
    let mut regular = Regular::new();
    regular.hugetlb = hugetlb;
    let mut mode = S_IFREG | 0o777;
    let mut seals = if flags & MFD_ALLOW_SEALING != 0 { 0 } else { F_SEAL_SEAL };
    if flags & MFD_NOEXEC_SEAL != 0 {
        mode &= !0o111;
        seals = F_SEAL_EXEC;
    }
    *regular.seals.get_mut() = seals;
    let mut full = String::from("/memfd:").into_bytes();
    full.extend_from_slice(name);
    let path = nameless(&full, mode, Kind::Regular(regular));
    path.dentry.set_unlinked();
    path.inode().add_links(-1);
    path.inode().get_write_access()?;
    Ok((File::new(path, Ops::Regular, O_RDWR | super::file::O_LARGEFILE), flags & MFD_CLOEXEC != 0))
}

/// F_ADD_SEALS.
///
/// # Errors
/// EINVAL (no memfd, unknown bits), EPERM (not open for writing, sealed), EBUSY (a writable mapping exists).
pub fn add_seals(file: &File, seals: u32) -> Result<(), Errno> {
    let Some(regular) = file.inode().regular() else { return Err(Errno::EINVAL) };
    if !file.writable() {
        return Err(Errno::EPERM);
    }
    if seals & !F_SEAL_ALL != 0 {
        return Err(Errno::EINVAL);
    }
    let old = regular.seals.load(Relaxed);
    if old & F_SEAL_SEAL != 0 {
        return Err(Errno::EPERM);
    }
    let mut seals = seals;
    // What may be executed must not change either (mm/memfd.c).
    if seals & F_SEAL_EXEC != 0 && file.inode().mode() & 0o111 != 0 {
        seals |= F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_FUTURE_WRITE;
    }
    let written = || regular.cached().is_some_and(|object| object.has_writable_mapping());
    if seals & F_SEAL_WRITE != 0 && old & F_SEAL_WRITE == 0 && written() {
        return Err(Errno::EBUSY);
    }
    regular.seals.store(old | seals, Relaxed);
    Ok(())
}

/// F_GET_SEALS.
///
/// # Errors
/// EINVAL for what cannot have seals.
pub fn get_seals(file: &File) -> Result<u32, Errno> {
    file.inode().regular().map(|r| r.seals.load(Relaxed)).ok_or(Errno::EINVAL)
}

/// Do the seals of an inode keep its execute permissions as they are?
pub fn is_exec_sealed(inode: &Inode) -> bool {
    inode.regular().is_some_and(|regular| regular.seals.load(Relaxed) & F_SEAL_EXEC != 0)
}

/// Do the file's seals keep it from being written through a new mapping?
pub fn is_write_sealed(file: &File) -> bool {
    get_seals(file).is_ok_and(|seals| seals & (F_SEAL_WRITE | F_SEAL_FUTURE_WRITE) != 0)
}
