//! Operations on memory. Each stays within the trace's memory, as in the interpreter.

use super::{ABSURD, HEAP, HEAP_BYTES, Replay, done, failed, noted, slot, sum};
use ptshare_abi::Errno;
use ptshare_abi::sys::general as abi;
use ptshare_mm::{Access, MapRequest};

use ptshare_trace::place::{ARENA_BYTES, ARENA_START, Base};
use ptshare_trace::report::{Answer, mix, note_range};
use ptshare_trace::{Call, Op, PAGE, Place};

impl Replay<'_> {
    /// Carries out an operation; `None` when it would reach outside of the trace's memory.
    pub(super) fn carry_out(&mut self, who: usize, op: &Op, at: usize, answer: &mut Answer) -> Option<i64> {
        let [a, b, c, ..] = op.args;
        let place = Place(a);
        let pid = self.pid(who);
        Some(match op.call {
            Call::Mmap => self.mmap(who, op)?,
            Call::Munmap => {
                let address = self.resolve_whole(who, place, b)?;
                let result = self.kernel.munmap(pid, address, b);
                if result.is_ok() {
                    self.forget(who, place);
                }
                done(result)
            }
            Call::Mremap => self.mremap(who, op)?,
            Call::Madvise => self.madvise(pid, self.resolve(who, place, b)?, b, c),
            Call::Mprotect => done(self.kernel.mprotect(pid, self.resolve(who, place, b)?, b, c)),
            Call::Mincore => self.mincore(pid, self.resolve(who, place, b)?, b, answer),
            Call::Msync => done(self.kernel.msync(pid, self.resolve(who, place, b)?, b, c)),
            Call::Mlock => done(self.kernel.mlock2(pid, self.resolve(who, place, b)?, b, 0)),
            Call::Mlock2 => done(self.kernel.mlock2(pid, self.resolve(who, place, b)?, b, c)),
            Call::Munlock => done(self.kernel.munlock(pid, self.resolve(who, place, b)?, b)),
            Call::Mlockall => done(self.kernel.mlockall(pid, a)),
            Call::Munlockall => {
                self.kernel.munlockall(pid);
                0
            }
            Call::Brk => {
                let end = self.kernel.brk(pid, HEAP + a.min(HEAP_BYTES));
                (end.wrapping_sub(HEAP) as i64).max(-1)
            }
            Call::Load => {
                let address = self.resolve(who, place, 8)?;
                answer.extra = noted(self.kernel.load(pid, address), address, answer);
                0
            }
            Call::Store => {
                let address = self.resolve(who, place, 8)?;
                noted(self.kernel.store(pid, address, b).map(|()| 0), address, answer);
                0
            }
            Call::Fill | Call::Sum => self.pages(who, op, answer)?,
            Call::Exec => self.exec(pid, self.resolve(who, place, 8)?, answer),
            Call::Fork => self.fork(who, a as usize)?,
            Call::Kill => self.kill(who, a as usize, answer)?,
            Call::Maps => {
                self.note_maps(who, at);
                0
            }
            _ => self.file(who, op, answer)?,
        })
    }

    /// As `resolve`, for calls that remove a mapping: of what a handle holds, all or nothing.
    fn resolve_whole(&self, who: usize, place: Place, bytes: u64) -> Option<u64> {
        if let Base::Handle(handle) = place.base() {
            let held = self.procs[who].as_ref()?.handles[handle].1;
            if place.offset() != 0 || bytes.next_multiple_of(PAGE) != held {
                return None;
            }
        }
        self.resolve(who, place, bytes)
    }

    fn forget(&mut self, who: usize, place: Place) {
        if let Base::Handle(handle) = place.base() {
            self.process(who).handles[handle] = (0, 0);
        }
    }

    /// Notes where the kernel has put something.
    fn placed(&mut self, who: usize, result: Result<u64, Errno>, handle: u64, bytes: u64) -> i64 {
        let address = match result {
            Ok(address) => address,
            Err(error) => return failed(error),
        };
        let inside = (ARENA_START..ARENA_START + ARENA_BYTES).contains(&address);
        if let Some(handle) = slot(handle).filter(|_| !inside) {
            self.process(who).handles[handle] = (address, bytes.next_multiple_of(PAGE));
        }
        address as i64
    }

    fn mmap(&mut self, who: usize, op: &Op) -> Option<i64> {
        let [addr, len, prot, flags, fd, offset, handle] = op.args;
        let place = Place(addr);
        let fixed = flags & u64::from(abi::MAP_FIXED | abi::MAP_FIXED_NOREPLACE) != 0;
        if matches!(place.base(), Base::Handle(_)) || fixed && place.base() == Base::Null {
            return None;
        }
        let mut request = MapRequest::anonymous(len, prot);
        request.addr = self.resolve(who, place, len)?;
        request.flags = flags;
        if !offset.is_multiple_of(PAGE) {
            return Some(failed(Errno::EINVAL));
        }
        if flags & u64::from(abi::MAP_ANONYMOUS) == 0 {
            let open = slot(fd).and_then(|fd| self.process(who).fds[fd]);
            let Some(file) = open else { return Some(failed(Errno::EBADF)) };
            request.object = Some((self.kernel.file(file.file).clone(), offset / PAGE));
            request.file_readable = file.readable;
            request.file_writable = file.writable;
        }
        let result = self.kernel.mm(self.pid(who)).mmap(request).map_err(Errno::from);
        Some(self.placed(who, result, handle, len))
    }

    fn mremap(&mut self, who: usize, op: &Op) -> Option<i64> {
        let [old, old_len, new_len, flags, new, handle, _] = op.args;
        let (old, new) = (Place(old), Place(new));
        let has = |flag: u32| flags & u64::from(flag) != 0;
        let unsure = matches!(old.base(), Base::Handle(_)) && !has(abi::MREMAP_MAYMOVE);
        let misplaced =
            matches!(new.base(), Base::Handle(_)) || has(abi::MREMAP_FIXED) && new.base() == Base::Null;
        if unsure || misplaced {
            return None;
        }
        let from = match old_len {
            0 => self.resolve(who, old, 1)?,
            _ => self.resolve_whole(who, old, old_len)?,
        };
        let target = self.resolve(who, new, new_len)?;
        if new_len < ABSURD && old.base() == Base::Arena {
            self.resolve(who, old, new_len)?;
        }
        let result = self.kernel.mremap(self.pid(who), from, old_len, new_len, flags, target);
        if result.is_ok() && old_len != 0 && !has(abi::MREMAP_DONTUNMAP) {
            self.forget(who, old);
        }
        Some(self.placed(who, result, handle, new_len))
    }

    fn madvise(&self, pid: u32, address: u64, bytes: u64, advice: u64) -> i64 {
        let result = done(self.kernel.madvise(pid, address, bytes, advice));
        if advice == u64::from(abi::MADV_FREE) {
            let _ = self.kernel.madvise(pid, address, bytes, abi::MADV_DONTNEED.into());
        }
        result
    }

    fn mincore(&self, pid: u32, address: u64, bytes: u64, answer: &mut Answer) -> i64 {
        let mut present = Vec::new();
        let result = self.kernel.mm(pid).mincore(address, bytes, &mut |run| {
            present.extend_from_slice(run);
            Ok(())
        });
        let bits = present.iter().map(|&page| u64::from(page & 1));
        match result {
            Ok(()) => {
                answer.extra = match present.len() {
                    0..60 => bits.fold(1, |word, bit| word << 1 | bit),
                    _ => bits.fold(1, mix),
                };
                0
            }
            Err(error) => failed(error.into()),
        }
    }

    /// Accesses one word in each of so many pages, until a signal comes. Gives the number of pages.
    fn pages(&mut self, who: usize, op: &Op, answer: &mut Answer) -> Option<i64> {
        let (place, count, value) = (Place(op.args[0]), op.args[1], op.args[2]);
        let pid = self.pid(who);
        self.resolve(who, place, 8)?;
        let mut words = Vec::new();
        for at in 0..count {
            let Some(address) = self.resolve(who, place.plus(at * PAGE), 8) else {
                answer.extra = sum(words.into_iter());
                return Some(at as i64);
            };
            let result = match op.call {
                Call::Fill => self.kernel.store(pid, address, value.wrapping_add(at << 32)).map(|()| 0),
                _ => self.kernel.load(pid, address),
            };
            let failed = result.is_err();
            words.push(noted(result, address, answer));
            if failed {
                return Some(at as i64);
            }
        }
        answer.extra = sum(words.into_iter());
        Some(count as i64)
    }

    fn exec(&self, pid: u32, address: u64, answer: &mut Answer) -> i64 {
        match self.kernel.load(pid, address) {
            Ok(word) if word & 0xff == 0xc3 => {
                noted(self.kernel.touch(pid, address, Access::EXEC).map(|()| 0), address, answer);
                0
            }
            Ok(_) => 1,
            fault => noted(fault, address, answer) as i64,
        }
    }

    /// Notes the VMAs of the arena; neighbours with the same rights are one. Gives what can be read, of the heap too.
    pub(super) fn note_maps(&mut self, who: usize, at: usize) -> Vec<(u64, u64)> {
        let mut readable = Vec::new();
        let mut ranges: Vec<(u64, u64, String)> = Vec::new();
        for vma in self.kernel.vmas(self.pid(who)) {
            let arena = (ARENA_START..ARENA_START + ARENA_BYTES).contains(&vma.start);
            let heap = (HEAP..HEAP + HEAP_BYTES).contains(&(vma.end - 1));
            if !arena && !heap {
                continue;
            }
            let bit = |bit: u64, letter| if vma.flags & bit != 0 { letter } else { '-' };
            // VM_READ, VM_WRITE, VM_EXEC, VM_MAYSHARE.
            let shared = if vma.flags & 0x80 != 0 { 's' } else { 'p' };
            let rights = String::from_iter([bit(1, 'r'), bit(2, 'w'), bit(4, 'x'), shared]);
            if rights.starts_with('r') {
                readable.push((vma.start, vma.end));
            }
            match ranges.last_mut() {
                _ if !arena => {}
                Some(last) if last.1 == vma.start && last.2 == rights => last.1 = vma.end,
                _ => ranges.push((vma.start, vma.end, rights)),
            }
        }
        for (start, end, rights) in &ranges {
            let _ = note_range(&mut self.notes, at, who, (*start, *end, rights));
        }
        readable
    }
}
