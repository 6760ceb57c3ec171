//! The operations on memory. Each stays within the trace's memory: the arena, the heap, and what handles hold.

use crate::access::{self, Fault};
use crate::control::{Record, SCRATCH};
use crate::final_state::mix;
use crate::turns::Machine;
use ptshare_programs::errno;
use ptshare_trace::call::NONE;
use ptshare_trace::place::{ARENA_BYTES, ARENA_START, Base};
use ptshare_trace::{Call, Op, PAGE, PROCS, Place};
use std::fmt::Write as _;
use std::sync::atomic::Ordering::SeqCst;

/// The heap's part that is the trace's, bytes.
const HEAP_BYTES: u64 = 16 << 20;
/// Lengths from here on are wrong on purpose: the end would be below the start.
const ABSURD: u64 = 0_u64.wrapping_sub(1 << 30);

/// A system call; the result or the negative error number.
pub fn call(number: i64, args: &[u64]) -> i64 {
    let arg = |at: usize| args.get(at).copied().unwrap_or(0);
    // SAFETY: what the calls of this program change is the trace's own memory, to which there are no Rust references, or
    // memory that the caller lends.
    let result = unsafe { libc::syscall(number, arg(0), arg(1), arg(2), arg(3), arg(4), arg(5)) };
    if result == -1 { -i64::from(errno()) } else { result }
}

/// A result of which only failure counts.
pub fn answer(result: i64) -> i64 {
    result.min(0)
}

impl Machine<'_> {
    /// The address of a place if `bytes` from there on are the trace's; `None` otherwise.
    pub fn resolve(&self, place: Place, bytes: u64) -> Option<u64> {
        let bytes = if bytes >= ABSURD { 1 } else { bytes };
        let (start, limit) = match place.base() {
            Base::Arena => (ARENA_START, ARENA_BYTES),
            Base::Heap => (self.heap, HEAP_BYTES),
            Base::Handle(handle) => self.handles[handle],
            Base::Null => return Some(0),
        };
        (start != 0 && place.offset() + bytes <= limit).then_some(start + place.offset())
    }

    /// As [`Machine::resolve`], for calls that remove a mapping: of what a handle holds, all or nothing.
    fn resolve_whole(&self, place: Place, bytes: u64) -> Option<u64> {
        if let Base::Handle(handle) = place.base()
            && (place.offset() != 0 || bytes.next_multiple_of(PAGE) != self.handles[handle].1)
        {
            return None;
        }
        self.resolve(place, bytes)
    }

    /// Notes where the kernel has put something.
    pub fn placed(&mut self, result: i64, handle: u64, bytes: u64) -> i64 {
        let inside = (ARENA_START..ARENA_START + ARENA_BYTES).contains(&(result as u64));
        if (-4095..0).contains(&result) || inside {
            return result;
        }
        if handle != NONE {
            self.handles[handle as usize] = (result as u64, bytes.next_multiple_of(PAGE));
        }
        result
    }

    fn forget(&mut self, place: Place) {
        if let Base::Handle(handle) = place.base() {
            self.handles[handle] = (0, 0);
        }
    }

    /// Carries out an operation; `None` when it would reach outside of the trace's memory.
    pub fn carry_out(&mut self, op: &Op, record: &Record) -> Option<i64> {
        let [a, b, c, d, e, f, g] = op.args;
        let place = Place(a);
        Some(match op.call {
            Call::Mmap => {
                if matches!(place.base(), Base::Handle(_)) {
                    return None;
                }
                let fixed = d & (libc::MAP_FIXED | libc::MAP_FIXED_NOREPLACE) as u64 != 0;
                if fixed && place.base() == Base::Null {
                    return None;
                }
                let address = self.resolve(place, b)?;
                let result = call(libc::SYS_mmap, &[address, b, c, d, self.fd(e), f]);
                self.placed(result, g, b)
            }
            Call::Munmap => {
                let address = self.resolve_whole(place, b)?;
                let result = call(libc::SYS_munmap, &[address, b]);
                if result == 0 {
                    self.forget(place);
                }
                result
            }
            Call::Mremap => self.mremap(op)?,
            Call::Madvise => self.madvise(self.resolve(place, b)?, b, c),
            Call::Mprotect => call(libc::SYS_mprotect, &[self.resolve(place, b)?, b, c]),
            Call::Mincore => self.mincore(self.resolve(place, b)?, b, record)?,
            Call::Msync => call(libc::SYS_msync, &[self.resolve(place, b)?, b, c]),
            Call::Mlock => call(libc::SYS_mlock, &[self.resolve(place, b)?, b]),
            Call::Mlock2 => call(libc::SYS_mlock2, &[self.resolve(place, b)?, b, c]),
            Call::Munlock => call(libc::SYS_munlock, &[self.resolve(place, b)?, b]),
            Call::Mlockall => call(libc::SYS_mlockall, &[a]),
            Call::Munlockall => call(libc::SYS_munlockall, &[]),
            Call::Brk => {
                let wanted = self.heap + a.min(HEAP_BYTES);
                call(libc::SYS_brk, &[wanted]).wrapping_sub(self.heap as i64).max(-1)
            }
            Call::Load => {
                let address = self.resolve(place, 8)?;
                record.extra.store(noted(access::load(address), record), SeqCst);
                0
            }
            Call::Store => {
                noted(access::store(self.resolve(place, 8)?, b).map(|()| 0), record);
                0
            }
            Call::Fill => self.pages(place, b, record, |address, at| {
                access::store(address, c.wrapping_add(at << 32)).map(|()| 0)
            })?,
            Call::Sum => self.pages(place, b, record, |address, _| access::load(address))?,
            Call::Exec => {
                let address = self.resolve(place, 8)?;
                match access::load(address) {
                    Ok(word) if word & 0xff == 0xc3 => {
                        noted(access::call(address).map(|()| 0), record) as i64
                    }
                    Ok(_) => 1,
                    Err(fault) => noted(Err(fault), record) as i64,
                }
            }
            Call::Fork => {
                let child = a as usize;
                if self.control.used[child].load(SeqCst) {
                    return None;
                }
                answer(self.fork(child))
            }
            Call::Kill => self.kill(a as usize, record)?,
            Call::Exit => return None,
            Call::Maps => self.maps(&mut |_| {}),
            Call::PipeOut | Call::PipeIn => self.through_pipe(op)?,
            Call::Shmget | Call::Shmat | Call::Shmdt | Call::Shmrm | Call::Shmstat => {
                self.segment(op, record)?
            }
            _ => self.file(op, record)?,
        })
    }

    fn mremap(&mut self, op: &Op) -> Option<i64> {
        let [old, old_len, new_len, flags, new, handle, _] = op.args;
        let (old, new) = (Place(old), Place(new));
        let fixed = flags & libc::MREMAP_FIXED as u64 != 0;
        // What the kernel placed may or may not have room behind it.
        let unsure = matches!(old.base(), Base::Handle(_)) && flags & libc::MREMAP_MAYMOVE as u64 == 0;
        let misplaced = matches!(new.base(), Base::Handle(_)) || fixed && new.base() == Base::Null;
        if unsure || misplaced {
            return None;
        }
        let from = if old_len == 0 { self.resolve(old, 1)? } else { self.resolve_whole(old, old_len)? };
        // A mapping of the arena may grow in place beyond its end.
        let target = self.resolve(new, new_len)?;
        if new_len < ABSURD && old.base() == Base::Arena {
            self.resolve(old, new_len)?;
        }
        let result = call(libc::SYS_mremap, &[from, old_len, new_len, flags, target]);
        let moved = !(-4095..0).contains(&result);
        if moved && old_len != 0 && flags & libc::MREMAP_DONTUNMAP as u64 == 0 {
            self.forget(old);
        }
        Some(self.placed(result, handle, new_len))
    }

    fn madvise(&self, address: u64, bytes: u64, advice: u64) -> i64 {
        let result = call(libc::SYS_madvise, &[address, bytes, advice]);
        if advice == libc::MADV_FREE as u64 {
            // Now, and not when Linux runs out of memory; also where it has stopped half-way.
            call(libc::SYS_madvise, &[address, bytes, libc::MADV_DONTNEED as u64]);
        }
        result
    }

    fn mincore(&self, address: u64, bytes: u64, record: &Record) -> Option<i64> {
        let pages = bytes.div_ceil(PAGE);
        if pages > SCRATCH as u64 && bytes < ABSURD {
            return None;
        }
        let result = call(libc::SYS_mincore, &[address, bytes, self.scratch]);
        if result == 0 {
            // SAFETY: inside the scratch memory, which only system calls use besides.
            let bit =
                |page: u64| u64::from(unsafe { ((self.scratch + page) as *const u8).read_volatile() } & 1);
            let bits = match pages {
                0..60 => (0..pages).fold(1, |bits, page| bits << 1 | bit(page)),
                _ => (0..pages).fold(1, |sum, page| mix(sum, bit(page))),
            };
            record.extra.store(bits, SeqCst);
        }
        Some(result)
    }

    /// Accesses one word in each of so many pages, until a signal comes. Gives the number of pages.
    fn pages(
        &self,
        place: Place,
        count: u64,
        record: &Record,
        access: impl Fn(u64, u64) -> Result<u64, Fault>,
    ) -> Option<i64> {
        let start = self.resolve(place, 8)?;
        let mut sum = 0;
        for at in 0..count {
            if self.resolve(place.plus(at * PAGE), 8).is_none() {
                record.extra.store(sum, SeqCst);
                return Some(at as i64);
            }
            let result = access(start + at * PAGE, at);
            let failed = result.is_err();
            sum = mix(sum, noted(result, record));
            if failed {
                return Some(at as i64);
            }
        }
        record.extra.store(sum, SeqCst);
        Some(count as i64)
    }

    fn kill(&self, child: usize, record: &Record) -> Option<i64> {
        let control = self.control;
        let mine = control.parent[child].load(SeqCst) == self.me && control.alive[child].load(SeqCst);
        if !mine || child >= PROCS {
            return None;
        }
        let pid = control.pid[child].load(SeqCst);
        let result = call(libc::SYS_kill, &[pid as u64, libc::SIGKILL as u64]);
        if result == 0 {
            control.alive[child].store(false, SeqCst);
            record.extra.store(self.wait_for(pid), SeqCst);
        }
        Some(result)
    }

    /// Notes the VMAs of the arena; neighbours with the same rights are one. Tells `each` of them, and of the heap's.
    pub fn maps(&self, each: &mut dyn FnMut((u64, u64, &str))) -> i64 {
        let fd = call(libc::SYS_open, &[c"/proc/self/maps".as_ptr() as u64, 0, 0]);
        if fd < 0 {
            return fd;
        }
        let mut len = 0;
        loop {
            let room = SCRATCH as u64 - len;
            match call(libc::SYS_read, &[fd as u64, self.scratch + len, room]) {
                got @ 1.. => len += got as u64,
                _ => break,
            }
        }
        call(libc::SYS_close, &[fd as u64]);
        // SAFETY: the call has filled so much of the scratch memory, and nobody writes there before the next call.
        let bytes = unsafe { std::slice::from_raw_parts(self.scratch as *const u8, len as usize) };
        let mut last: Option<(u64, u64, &str)> = None;
        for line in std::str::from_utf8(bytes).unwrap_or("").lines() {
            let Some((start, end, rights)) = vma(line) else { continue };
            if (self.heap..self.heap + HEAP_BYTES).contains(&end.wrapping_sub(1)) {
                each((start, end, rights));
            }
            if !(ARENA_START..ARENA_START + ARENA_BYTES).contains(&start) {
                continue;
            }
            each((start, end, rights));
            last = match last {
                Some((from, upto, same)) if upto == start && same == rights => Some((from, end, same)),
                Some(range) => {
                    self.note_range(range);
                    Some((start, end, rights))
                }
                None => Some((start, end, rights)),
            };
        }
        if let Some(range) = last {
            self.note_range(range);
        }
        0
    }

    fn note_range(&self, (start, end, rights): (u64, u64, &str)) {
        let mut line = Line { bytes: [0; 96], len: 0 };
        let at = self.control.pc.load(SeqCst) - 1;
        let _ = writeln!(
            line,
            "maps {at} p{}: {:#x} {}p {rights}",
            self.me,
            start - ARENA_START,
            (end - start) / PAGE
        );
        self.control.note(&line.bytes[..line.len]);
    }
}

/// A line without allocation, which a forked process does not need to do.
struct Line {
    bytes: [u8; 96],
    len: usize,
}

impl std::fmt::Write for Line {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        let room = self.bytes.get_mut(self.len..self.len + text.len()).ok_or(std::fmt::Error)?;
        room.copy_from_slice(text.as_bytes());
        self.len += text.len();
        Ok(())
    }
}

/// Start, end and rights of a line of /proc/self/maps.
fn vma(line: &str) -> Option<(u64, u64, &str)> {
    let mut words = line.split_whitespace();
    let (start, end) = words.next()?.split_once('-')?;
    Some((u64::from_str_radix(start, 16).ok()?, u64::from_str_radix(end, 16).ok()?, words.next()?))
}

/// The value of an access, or 0 after its signal has been recorded.
fn noted(result: Result<u64, Fault>, record: &Record) -> u64 {
    match result {
        Ok(value) => value,
        Err(fault) => {
            record.signal.store(fault.signal as u64 | (fault.code as u32 as u64) << 32, SeqCst);
            record.address.store(fault.address, SeqCst);
            0
        }
    }
}
