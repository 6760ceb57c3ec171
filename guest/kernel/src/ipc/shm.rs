//! System V shared memory: shmget, shmat, shmdt, shmctl (Linux: ipc/shm.c).
//!
//! A segment is an object. Its number of attachments is the number of VMAs that map the object, which fork and exit
//! change by themselves; a segment marked for destruction is held by those VMAs alone, so that the last detach frees
//! it, and its row in the table goes at the next look.

use super::perm::*;
use crate::syscall::{Args, SysResult};
use crate::task::current;
use crate::task::limits::memory_pages;
use crate::{KObject, heap_room};
use alloc::string::String;
use alloc::sync::{Arc, Weak};
use core::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use ptshare_abi::Errno;
use ptshare_abi::sys::general as abi;
use ptshare_machine::trap::TrapFrame;
use ptshare_machine::{Machine, uaccess};
use ptshare_mm::MapRequest;
use ptshare_mm::hugetlb::{self, HugeSize};
use ptshare_mm::object::{ObjectInfo, ObjectKind};
use ptshare_mm::space::limits::enough_memory;
use ptshare_paging::{PAGE_BYTES, page_ceil};
use ptshare_sync::{Lock, Rank};

/// Most segments (/proc/sys/kernel/shmmni).
pub static SHMMNI: Setting = AtomicU64::new(4096);
/// Largest segment in bytes (shmmax).
pub static SHMMAX: Setting = AtomicU64::new(u64::MAX - (1 << 24));
/// Pages in all segments together (shmall).
pub static SHMALL: Setting = AtomicU64::new(u64::MAX - (1 << 24));
/// shm_next_id: identifier wanted for the next segment, -1 for any.
pub static NEXT_ID: AtomicI64 = AtomicI64::new(-1);

const SHM_HUGETLB: u64 = 0o4000;
const SHM_NORESERVE: u64 = 0o10000;

const SHM_RDONLY: u64 = 0o10000;
const SHM_RND: u64 = 0o20000;
const SHM_REMAP: u64 = 0o40000;
const SHM_EXEC: u64 = 0o100000;
const SHM_DEST: u32 = 0o1000;
const SHM_LOCKED: u32 = 0o2000;

const SHM_LOCK: u64 = 11;
const SHM_UNLOCK: u64 = 12;
const SHM_STAT: u64 = 13;
const SHM_INFO: u64 = 14;
const SHM_STAT_ANY: u64 = 15;

/// How the table holds a segment's object.
enum Hold {
    /// Alive until IPC_RMID.
    Kept(Arc<KObject>),
    /// Marked for destruction: alive as long as somebody has it attached.
    Doomed(Weak<KObject>),
}

struct Segment {
    perm: Perm,
    bytes: u64,
    hold: Hold,
    atime: u64,
    dtime: u64,
    ctime: u64,
    cpid: u32,
    lpid: u32,
}

impl Kept for Segment {
    fn perm(&self) -> &Perm {
        &self.perm
    }
    fn perm_mut(&mut self) -> &mut Perm {
        &mut self.perm
    }
}

static TABLE: Lock<Table<Segment>> = Lock::new(Rank::Ipc, Table::new());

impl Segment {
    fn object(&self) -> Option<Arc<KObject>> {
        match &self.hold {
            Hold::Kept(object) => Some(object.clone()),
            Hold::Doomed(weak) => weak.upgrade(),
        }
    }

    fn pages(&self) -> u64 {
        self.bytes.div_ceil(PAGE_BYTES)
    }

    /// The mode, with the marks that the kernel sets.
    fn mode(&self) -> u32 {
        self.perm.mode | if matches!(self.hold, Hold::Doomed(_)) { SHM_DEST } else { 0 }
    }

    /// `struct shmid64_ds` (include/uapi/asm-generic/shmbuf.h) as words.
    fn status(&self, attached: u64) -> [u64; 14] {
        let mut words = [0; 14];
        let (perm, rest) = words.split_at_mut(6);
        perm.copy_from_slice(&Perm { mode: self.mode(), ..self.perm }.words());
        let pids = u64::from(self.cpid) | u64::from(self.lpid) << 32;
        let values = [self.bytes, self.atime, self.dtime, self.ctime, pids, attached];
        for (to, from) in rest.iter_mut().zip(values) {
            *to = from;
        }
        words
    }
}

/// Forgets doomed segments that nobody has attached any more.
fn sweep(table: &mut Table<Segment>) {
    table.retain(|segment| match &segment.hold {
        Hold::Kept(_) => true,
        Hold::Doomed(weak) => weak.strong_count() > 0,
    });
}

/// The size of the pages of a segment of huge ones, if there are such and the caller may have them (`newseg`,
/// `can_do_hugetlb_shm`).
fn check_huge(flags: u64) -> Result<HugeSize, Errno> {
    let size = match flags >> abi::MAP_HUGE_SHIFT & u64::from(abi::MAP_HUGE_MASK) {
        0 => Some(hugetlb::default_size(&Machine)),
        shift => HugeSize::from_shift(shift).filter(|size| hugetlb::has_size(&Machine, *size)),
    };
    let size = size.ok_or(Errno::EINVAL)?;
    // CAP_IPC_LOCK.
    if current().process.creds().cap_effective & (1 << 14) == 0 { Err(Errno::EPERM) } else { Ok(size) }
}

/// shmget(2).
pub fn shmget(a: &Args, _: &mut TrapFrame) -> SysResult {
    let (key, bytes, flags) = (a[0] as i32, a[1], a[2]);
    heap_room()?;
    let mut table = TABLE.lock();
    sweep(&mut table);
    if key != IPC_PRIVATE {
        if let Some((id, segment)) = table.by_key(key) {
            if flags & IPC_CREAT != 0 && flags & IPC_EXCL != 0 {
                return Err(Errno::EEXIST.into());
            }
            if bytes > segment.bytes {
                return Err(Errno::EINVAL.into());
            }
            segment.perm.check_flags(flags)?;
            return Ok(id);
        }
        if flags & IPC_CREAT == 0 {
            return Err(Errno::ENOENT.into());
        }
    }
    let good = bytes != 0 && bytes <= SHMMAX.load(Relaxed);
    let size = page_ceil(bytes).filter(|_| good).ok_or(Errno::EINVAL)?;
    let used: u64 = table.iter().map(|(_, segment)| segment.pages()).sum();
    let all = used.saturating_add(size / PAGE_BYTES);
    if size > i64::MAX as u64 || all > SHMALL.load(Relaxed) {
        return Err(Errno::ENOSPC.into());
    }
    let huge = if flags & SHM_HUGETLB != 0 { Some(check_huge(flags)?) } else { None };
    if huge.is_none() && flags & SHM_NORESERVE == 0 && !enough_memory(size / PAGE_BYTES, memory_pages()) {
        return Err(Errno::ENOMEM.into());
    }
    let mut path = String::from("/SYSV");
    for nibble in (0..8).rev() {
        path.push(char::from_digit(key as u32 >> (4 * nibble) & 15, 16).unwrap_or('0'));
    }
    path.push_str(" (deleted)");
    let make = |id: u64| -> Result<Arc<KObject>, Errno> {
        let info = ObjectInfo::new(1, id, path);
        if let Some(unit) = huge {
            let size = unit.ceil(bytes).ok_or(Errno::EINVAL)?;
            let object = KObject::hugetlb(Machine, unit, info, size, None);
            if flags & SHM_NORESERVE == 0 {
                object.reserve_huge(0, size >> unit.shift()).map_err(|_| Errno::ENOMEM)?;
            }
            Ok(object)
        } else {
            let object = KObject::new(Machine, ObjectKind::Shm, info);
            object.truncate(bytes).map_err(|_| Errno::ENOMEM)?;
            if flags & SHM_NORESERVE == 0 {
                object.promise();
            }
            Ok(object)
        }
    };
    let segment = Segment {
        perm: Perm::new(key, flags),
        bytes,
        hold: Hold::Doomed(Weak::new()),
        atime: 0,
        dtime: 0,
        ctime: seconds(),
        cpid: current().process.pid,
        lpid: 0,
    };
    // The object is named after the identifier, which the table gives.
    let id = table.add(segment, SHMMNI.load(Relaxed), &NEXT_ID)?;
    match make(id) {
        Ok(object) => table.get(id)?.hold = Hold::Kept(object),
        Err(errno) => {
            table.remove(id)?;
            return Err(errno.into());
        }
    }
    Ok(id)
}

/// shmat(2).
pub fn shmat(a: &Args, _: &mut TrapFrame) -> SysResult {
    let [id, addr, flags, ..] = *a;
    heap_room()?;
    let addr = match addr {
        0 if flags & SHM_REMAP != 0 => return Err(Errno::EINVAL.into()),
        addr if addr & (PAGE_BYTES - 1) == 0 => addr,
        addr if flags & SHM_RND != 0 => {
            let down = addr & !(PAGE_BYTES - 1);
            if down == 0 && flags & SHM_REMAP != 0 {
                return Err(Errno::EINVAL.into());
            }
            down
        }
        _ => return Err(Errno::EINVAL.into()),
    };
    let (object, bytes) = {
        let mut table = TABLE.lock();
        sweep(&mut table);
        let segment = table.get(id)?;
        let want =
            4 | if flags & SHM_RDONLY == 0 { 2 } else { 0 } | if flags & SHM_EXEC != 0 { 1 } else { 0 };
        segment.perm.check(want)?;
        (segment.object().ok_or(Errno::EIDRM)?, segment.bytes)
    };
    let mut prot = u64::from(abi::PROT_READ);
    if flags & SHM_RDONLY == 0 {
        prot |= u64::from(abi::PROT_WRITE);
    }
    if flags & SHM_EXEC != 0 {
        prot |= u64::from(abi::PROT_EXEC);
    }
    let len =
        page_ceil(bytes.max(if object.is_huge() { object.size_bytes() } else { 0 })).ok_or(Errno::EINVAL)?;
    let mm = current().process.mm();
    let mut request = MapRequest::anonymous(len, prot);
    request.addr = addr;
    request.flags = u64::from(abi::MAP_SHARED)
        | match addr {
            0 => 0,
            _ if flags & SHM_REMAP != 0 => u64::from(abi::MAP_FIXED),
            _ => u64::from(abi::MAP_FIXED_NOREPLACE),
        };
    request.object = Some((object, 0));
    request.file_writable = flags & SHM_RDONLY == 0;
    let at = mm.mmap(request).map_err(|error| match Errno::from(error) {
        // shmat says EINVAL where mmap says that something is in the way.
        Errno::EEXIST => Errno::EINVAL,
        other => other,
    })?;
    let mut table = TABLE.lock();
    if let Ok(segment) = table.get(id) {
        segment.atime = seconds();
        segment.lpid = current().process.pid;
    }
    Ok(at)
}

/// shmdt(2): unmaps every piece of the attachment that began at this address.
pub fn shmdt(a: &Args, _: &mut TrapFrame) -> SysResult {
    let addr = a[0];
    if addr & (PAGE_BYTES - 1) != 0 {
        return Err(Errno::EINVAL.into());
    }
    let mm = current().process.mm();
    // The first piece names the segment; pieces that follow it at the right distance go too (Linux: ksys_shmdt).
    let mut id = None;
    let mut end = 0;
    loop {
        let mut next = None;
        mm.for_each_vma(&mut |vma| {
            let Some(object) = vma.object else { return };
            if vma.start < addr || !object.is_segment() {
                return;
            }
            let in_place = vma.start - addr == vma.offset;
            let first = id.is_none() && in_place;
            if next.is_none() && (first || in_place && id == Some(object.id()) && vma.start < end) {
                next = Some((vma.start, vma.end - vma.start, object.id(), addr + object.size_bytes()));
            }
        });
        let Some((start, len, object, limit)) = next else { break };
        id = Some(object);
        end = limit;
        mm.munmap(start, len)?;
    }
    let Some(object_id) = id else { return Err(Errno::EINVAL.into()) };
    let mut table = TABLE.lock();
    for segment in table.iter_mut() {
        if segment.object().is_some_and(|o| o.id() == object_id) {
            segment.dtime = seconds();
            segment.lpid = current().process.pid;
        }
    }
    sweep(&mut table);
    Ok(0)
}

/// shmctl(2).
pub fn shmctl(a: &Args, _: &mut TrapFrame) -> SysResult {
    let [id, cmd, buf, ..] = *a;
    match cmd & !IPC_64 {
        IPC_STAT => stat(buf, id, false, true),
        SHM_STAT => stat(buf, id, true, true),
        SHM_STAT_ANY => stat(buf, id, true, false),
        IPC_SET => set(id, buf),
        IPC_RMID => remove(id),
        SHM_LOCK | SHM_UNLOCK => {
            let mut table = TABLE.lock();
            sweep(&mut table);
            let segment = table.get(id)?;
            segment.perm.check_owner()?;
            if cmd & !IPC_64 == SHM_LOCK {
                segment.perm.mode |= SHM_LOCKED;
            } else {
                segment.perm.mode &= !SHM_LOCKED;
            }
            Ok(0)
        }
        IPC_INFO => {
            let most = SHMMNI.load(Relaxed);
            let words: [u64; 9] = [SHMMAX.load(Relaxed), 1, most, most, SHMALL.load(Relaxed), 0, 0, 0, 0];
            uaccess::write(buf, &words)?;
            Ok(highest_index())
        }
        SHM_INFO => {
            let (mut used, mut pages, mut resident) = (0, 0, 0);
            {
                let mut table = TABLE.lock();
                sweep(&mut table);
                for (_, segment) in table.iter() {
                    used += 1;
                    pages += segment.pages();
                    resident += segment.object().map_or(0, |o| o.pages());
                }
            }
            let words: [u64; 6] = [used, pages, resident, 0, 0, 0];
            uaccess::write(buf, &words)?;
            Ok(highest_index())
        }
        _ => Err(Errno::EINVAL.into()),
    }
}

fn highest_index() -> u64 {
    TABLE.lock().highest_index()
}

fn stat(buf: u64, id: u64, by_index: bool, check: bool) -> SysResult {
    let (words, answer) = {
        let mut table = TABLE.lock();
        sweep(&mut table);
        let (full_id, segment) = if by_index { table.by_index(id)? } else { (0, table.get(id)?) };
        if check {
            segment.perm.check(READ)?;
        }
        let attached = segment.object().map_or(0, |o| o.mapping_count() as u64);
        (segment.status(attached), full_id)
    };
    uaccess::write(buf, &words)?;
    Ok(answer)
}

fn set(id: u64, buf: u64) -> SysResult {
    let words: [u64; 14] = uaccess::read(buf)?;
    let mut table = TABLE.lock();
    sweep(&mut table);
    let segment = table.get(id)?;
    segment.perm.check_owner()?;
    segment.perm.set_from(&words);
    segment.ctime = seconds();
    Ok(0)
}

fn remove(id: u64) -> SysResult {
    let removed = {
        let mut table = TABLE.lock();
        sweep(&mut table);
        let segment = table.get(id)?;
        segment.perm.check_owner()?;
        segment.perm.key = IPC_PRIVATE;
        let weak = match &segment.hold {
            Hold::Kept(object) => Arc::downgrade(object),
            Hold::Doomed(weak) => weak.clone(),
        };
        core::mem::replace(&mut segment.hold, Hold::Doomed(weak))
    };
    // The object goes here, outside the lock, if nobody has it attached.
    drop(removed);
    sweep(&mut TABLE.lock());
    Ok(0)
}

/// What /proc/sysvipc/shm shows of a segment.
pub struct Row<'a> {
    /// Key and owners.
    pub perm: &'a Perm,
    /// Mode, with the kernel's marks.
    pub mode: u32,
    /// Identifier.
    pub id: u64,
    /// Size in bytes.
    pub bytes: u64,
    /// Creator, and who used it last.
    pub pids: [u32; 2],
    /// VMAs that map it.
    pub attached: u64,
    /// Times of the last attach, detach and change.
    pub times: [u64; 3],
    /// Resident bytes.
    pub resident: u64,
}

/// Calls `f` for each segment.
pub fn for_each(f: &mut dyn FnMut(&Row<'_>)) {
    let mut table = TABLE.lock();
    sweep(&mut table);
    for (id, segment) in table.iter() {
        let object = segment.object();
        f(&Row {
            perm: &segment.perm,
            mode: segment.mode(),
            id,
            bytes: segment.bytes,
            pids: [segment.cpid, segment.lpid],
            attached: object.as_ref().map_or(0, |o| o.mapping_count() as u64),
            times: [segment.atime, segment.dtime, segment.ctime],
            resident: object.map_or(0, |o| o.pages() * PAGE_BYTES),
        });
    }
}
