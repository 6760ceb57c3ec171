//! System V shared memory: shmget, shmat, shmdt, shmctl (Linux: ipc/shm.c).
//!
//! A segment is an object. Its number of attachments is the number of VMAs that map the object, which fork and exit
//! change by themselves; a segment marked for destruction is held by those VMAs alone, so that the last detach frees
//! it, and its row in the table goes at the next look.

use crate::syscall::{Args, SysErr, SysResult};
use crate::task::current;
use crate::{KObject, heap_room};
use alloc::string::String;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use ptshare_abi::Errno;
use ptshare_abi::sys::general as abi;
use ptshare_machine::trap::TrapFrame;
use ptshare_machine::{Machine, time, uaccess};
use ptshare_mm::object::{ObjectInfo, ObjectKind};
use ptshare_mm::{MapRequest, hugetlb};
use ptshare_paging::{PAGE_BYTES, page_ceil};
use ptshare_sync::{Lock, Rank};

/// Most segments (SHMMNI).
pub const SHMMNI: usize = 4096;
/// Largest segment in bytes (SHMMAX: ULONG_MAX - 2^24).
pub const SHMMAX: u64 = u64::MAX - (1 << 24);
/// Pages in all segments together (SHMALL: the same number).
pub const SHMALL: u64 = u64::MAX - (1 << 24);

const IPC_PRIVATE: i32 = 0;
const IPC_CREAT: u64 = 0o1000;
const IPC_EXCL: u64 = 0o2000;
const SHM_HUGETLB: u64 = 0o4000;
const SHM_NORESERVE: u64 = 0o10000;

const SHM_RDONLY: u64 = 0o10000;
const SHM_RND: u64 = 0o20000;
const SHM_REMAP: u64 = 0o40000;
const SHM_EXEC: u64 = 0o100000;
const SHM_DEST: u32 = 0o1000;
const SHM_LOCKED: u32 = 0o2000;

const IPC_RMID: u64 = 0;
const IPC_SET: u64 = 1;
const IPC_STAT: u64 = 2;
const IPC_INFO: u64 = 3;
const SHM_LOCK: u64 = 11;
const SHM_UNLOCK: u64 = 12;
const SHM_STAT: u64 = 13;
const SHM_INFO: u64 = 14;
const SHM_STAT_ANY: u64 = 15;
/// Bit that asks for the 64-bit structures; always set in effect on x86-64.
const IPC_64: u64 = 0x100;

/// How the table holds a segment's object.
enum Hold {
    /// Alive until IPC_RMID.
    Kept(Arc<KObject>),
    /// Marked for destruction: alive as long as somebody has it attached.
    Doomed(Weak<KObject>),
}

struct Segment {
    key: i32,
    seq: u16,
    uid: u32,
    gid: u32,
    cuid: u32,
    cgid: u32,
    mode: u32,
    bytes: u64,
    hold: Hold,
    atime: u64,
    dtime: u64,
    ctime: u64,
    cpid: u32,
    lpid: u32,
}

struct Table {
    slots: Vec<Option<Segment>>,
    seq: u16,
}

static TABLE: Lock<Table> = Lock::new(Rank::Ipc, Table { slots: Vec::new(), seq: 0 });

fn seconds() -> u64 {
    time::realtime_ns() / 1_000_000_000
}

impl Segment {
    fn object(&self) -> Option<Arc<KObject>> {
        match &self.hold {
            Hold::Kept(object) => Some(object.clone()),
            Hold::Doomed(weak) => weak.upgrade(),
        }
    }

    /// Checks `want` (bits 4 read, 2 write) against the mode, as `ipcperms` does.
    fn permits(&self, want: u32) -> bool {
        let creds = current().process.creds();
        if creds.cap_effective & (1 << 15) != 0 {
            // CAP_IPC_OWNER.
            return true;
        }
        let shift = if creds.euid == self.uid || creds.euid == self.cuid {
            6
        } else if creds.egid == self.gid || creds.egid == self.cgid {
            3
        } else {
            0
        };
        want & !(self.mode >> shift) & 7 == 0
    }

    fn owned_by_caller(&self) -> bool {
        let creds = current().process.creds();
        creds.euid == self.uid || creds.euid == self.cuid || creds.cap_effective & (1 << 21) != 0
    }

    /// `struct shmid64_ds` (include/uapi/asm-generic/shmbuf.h) as words.
    fn status(&self, attached: u64) -> [u64; 14] {
        let pair = |low: u32, high: u32| u64::from(low) | u64::from(high) << 32;
        let doomed = if matches!(self.hold, Hold::Doomed(_)) { SHM_DEST } else { 0 };
        let mut words = [0; 14];
        words[0] = pair(self.key as u32, self.uid);
        words[1] = pair(self.gid, self.cuid);
        words[2] = pair(self.cgid, self.mode | doomed);
        words[3] = u64::from(self.seq);
        words[6] = self.bytes;
        words[7] = self.atime;
        words[8] = self.dtime;
        words[9] = self.ctime;
        words[10] = pair(self.cpid, self.lpid);
        words[11] = attached;
        words
    }
}

impl Table {
    fn id(index: usize, seq: u16) -> u64 {
        u64::from(seq & 0x7fff) << 15 | index as u64
    }

    /// Forgets doomed segments that nobody has attached any more.
    fn sweep(&mut self) {
        for slot in &mut self.slots {
            if matches!(slot, Some(Segment { hold: Hold::Doomed(weak), .. }) if weak.strong_count() == 0) {
                *slot = None;
            }
        }
    }

    fn get(&mut self, id: u64) -> Result<&mut Segment, Errno> {
        let index = (id & 0x7fff) as usize;
        let seq = (id >> 15 & 0x7fff) as u16;
        if id > i32::MAX as u64 {
            return Err(Errno::EINVAL);
        }
        match self.slots.get_mut(index) {
            Some(Some(segment)) if segment.seq & 0x7fff == seq => Ok(segment),
            // EIDRM is for callers that race with the removal (`ipc_obtain_object_check`).
            _ => Err(Errno::EINVAL),
        }
    }

    fn by_index(&mut self, index: u64) -> Result<(u64, &mut Segment), Errno> {
        match self.slots.get_mut(index as usize) {
            Some(Some(segment)) => Ok((Table::id(index as usize, segment.seq), segment)),
            _ => Err(Errno::EINVAL),
        }
    }
}

/// May the caller make a segment of huge pages, of a size that there is (`newseg`, `can_do_hugetlb_shm`)?
fn check_huge(flags: u64) -> Result<(), Errno> {
    match flags >> abi::MAP_HUGE_SHIFT & u64::from(abi::MAP_HUGE_MASK) {
        0 | 21 => {}
        // A pool that exists and is empty.
        30 => return Err(Errno::ENOMEM),
        _ => return Err(Errno::EINVAL),
    }
    // CAP_IPC_LOCK.
    if current().process.creds().cap_effective & (1 << 14) == 0 { Err(Errno::EPERM) } else { Ok(()) }
}

/// shmget(2).
pub fn shmget(a: &Args, _: &mut TrapFrame) -> SysResult {
    let (key, bytes, flags) = (a[0] as i32, a[1], a[2]);
    heap_room()?;
    let mut table = TABLE.lock();
    table.sweep();
    if key != IPC_PRIVATE {
        let found = table.slots.iter().enumerate().find_map(|(i, slot)| match slot {
            Some(s) if s.key == key && matches!(s.hold, Hold::Kept(_)) => Some((i, s)),
            _ => None,
        });
        if let Some((index, segment)) = found {
            if flags & IPC_CREAT != 0 && flags & IPC_EXCL != 0 {
                return Err(Errno::EEXIST.into());
            }
            if bytes > segment.bytes {
                return Err(Errno::EINVAL.into());
            }
            let want = ((flags >> 6 | flags >> 3 | flags) & 7) as u32;
            if !segment.permits(want) {
                return Err(Errno::EACCES.into());
            }
            return Ok(Table::id(index, segment.seq));
        }
        if flags & IPC_CREAT == 0 {
            return Err(Errno::ENOENT.into());
        }
    }
    let size = page_ceil(bytes).filter(|_| bytes != 0 && bytes <= SHMMAX).ok_or(Errno::EINVAL)?;
    if size > i64::MAX as u64 {
        return Err(Errno::ENOSPC.into());
    }
    let huge = flags & SHM_HUGETLB != 0;
    if huge {
        check_huge(flags)?;
    }
    let index = match table.slots.iter().position(Option::is_none) {
        Some(index) => index,
        None if table.slots.len() >= SHMMNI => return Err(Errno::ENOSPC.into()),
        None => {
            table.slots.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
            table.slots.push(None);
            table.slots.len() - 1
        }
    };
    let seq = table.seq;
    table.seq = table.seq.wrapping_add(1) & 0x7fff;
    let id = Table::id(index, seq);
    let mut path = String::from("/SYSV");
    for nibble in (0..8).rev() {
        path.push(char::from_digit(key as u32 >> (4 * nibble) & 15, 16).unwrap_or('0'));
    }
    path.push_str(" (deleted)");
    let info = ObjectInfo::new(1, id, path);
    let object = if huge {
        let size = hugetlb::huge_ceil(bytes).ok_or(Errno::EINVAL)?;
        let object = KObject::hugetlb(Machine, info, size, None);
        if flags & SHM_NORESERVE == 0 {
            object.reserve_huge(0, size >> hugetlb::HUGE_SHIFT).map_err(|_| Errno::ENOMEM)?;
        }
        object
    } else {
        let object = KObject::new(Machine, ObjectKind::Shm, info);
        object.truncate(bytes).map_err(|_| Errno::ENOMEM)?;
        object
    };
    let creds = current().process.creds();
    table.slots[index] = Some(Segment {
        key,
        seq,
        uid: creds.euid,
        gid: creds.egid,
        cuid: creds.euid,
        cgid: creds.egid,
        mode: (flags & 0o777) as u32,
        bytes,
        hold: Hold::Kept(object),
        atime: 0,
        dtime: 0,
        ctime: seconds(),
        cpid: current().process.pid,
        lpid: 0,
    });
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
        table.sweep();
        let segment = table.get(id)?;
        let want =
            4 | if flags & SHM_RDONLY == 0 { 2 } else { 0 } | if flags & SHM_EXEC != 0 { 1 } else { 0 };
        if !segment.permits(want) {
            return Err(Errno::EACCES.into());
        }
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
    for segment in table.slots.iter_mut().flatten() {
        if segment.object().is_some_and(|o| o.id() == object_id) {
            segment.dtime = seconds();
            segment.lpid = current().process.pid;
        }
    }
    table.sweep();
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
            table.sweep();
            let segment = table.get(id)?;
            if !segment.owned_by_caller() {
                return Err(Errno::EPERM.into());
            }
            if cmd & !IPC_64 == SHM_LOCK {
                segment.mode |= SHM_LOCKED;
            } else {
                segment.mode &= !SHM_LOCKED;
            }
            Ok(0)
        }
        IPC_INFO => {
            let words: [u64; 9] = [SHMMAX, 1, SHMMNI as u64, SHMMNI as u64, SHMALL, 0, 0, 0, 0];
            uaccess::write(buf, &words)?;
            Ok(highest_index())
        }
        SHM_INFO => {
            let (mut used, mut pages, mut resident) = (0, 0, 0);
            {
                let mut table = TABLE.lock();
                table.sweep();
                for segment in table.slots.iter().flatten() {
                    used += 1;
                    pages += segment.bytes.div_ceil(PAGE_BYTES);
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
    TABLE.lock().slots.iter().rposition(Option::is_some).unwrap_or(0) as u64
}

fn stat(buf: u64, id: u64, by_index: bool, check: bool) -> SysResult {
    let (words, answer) = {
        let mut table = TABLE.lock();
        table.sweep();
        let (full_id, segment) = if by_index { table.by_index(id)? } else { (0, table.get(id)?) };
        if check && !segment.permits(4) {
            return Err(Errno::EACCES.into());
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
    table.sweep();
    let segment = table.get(id)?;
    if !segment.owned_by_caller() {
        return Err(Errno::EPERM.into());
    }
    segment.uid = (words[0] >> 32) as u32;
    segment.gid = words[1] as u32;
    segment.mode = segment.mode & !0o777 | (words[2] >> 32) as u32 & 0o777;
    segment.ctime = seconds();
    Ok(0)
}

fn remove(id: u64) -> SysResult {
    let removed = {
        let mut table = TABLE.lock();
        table.sweep();
        let segment = table.get(id)?;
        if !segment.owned_by_caller() {
            return Err(SysErr::Errno(Errno::EPERM));
        }
        segment.key = IPC_PRIVATE;
        let weak = match &segment.hold {
            Hold::Kept(object) => Arc::downgrade(object),
            Hold::Doomed(weak) => weak.clone(),
        };
        core::mem::replace(&mut segment.hold, Hold::Doomed(weak))
    };
    // The object goes here, outside the lock, if nobody has it attached.
    drop(removed);
    TABLE.lock().sweep();
    Ok(0)
}

/// Rows for `/proc/sysvipc/shm`: key, id, mode, bytes, creator, last user, attachments, uid, gid.
pub fn for_each(f: &mut dyn FnMut(i32, u64, u32, u64, u32, u32, u64, u32, u32)) {
    let mut table = TABLE.lock();
    table.sweep();
    for (index, slot) in table.slots.iter().enumerate() {
        let Some(s) = slot else { continue };
        let attached = s.object().map_or(0, |o| o.mapping_count() as u64);
        f(s.key, Table::id(index, s.seq), s.mode, s.bytes, s.cpid, s.lpid, attached, s.uid, s.gid);
    }
}
