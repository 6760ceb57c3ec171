//! Judging an answer and taking the step.

use super::access::Want;
use super::maps::Mmap;
use super::remap::Mremap;
use super::*;
use ptshare_mm::testing::Op;
use ptshare_mm::vma::{VM_DONTCOPY, VM_HUGETLB, VM_LOCKED, VM_LOCKONFAULT, VM_WIPEONFORK};

impl Model {
    /// Takes the step that `op` of the context's process is, which the kernel answered with `answer`.
    ///
    /// # Errors
    /// Why the answer is wrong.
    pub fn follow(&mut self, context: Context<'_>, op: &Op, answer: Answer) -> Verdict {
        let pid = context.pid;
        match *op {
            Op::Mmap { addr, len, prot, flags, file } => {
                self.mmap(context, Mmap { addr, len, prot, flags, file }, answer)
            }
            Op::Munmap { addr, len } => self.munmap(context, addr, len, answer),
            Op::Mprotect { addr, len, prot } => self.mprotect(context, addr, len, prot, answer),
            Op::Mremap { old, old_len, new_len, flags, new_addr } => {
                self.mremap(context, Mremap { old, old_len, new_len, flags, new_addr }, answer)
            }
            Op::Madvise { addr, len, advice } => self.madvise(context, (addr, len, advice as u32), answer),
            Op::Mlock { addr, len, flags } => self.mlock(context, (addr, len, flags), answer),
            Op::Munlock { addr, len } => self.munlock(context, addr, len, answer),
            Op::Mlockall { flags } => self.mlockall(context, flags, answer),
            Op::Munlockall => self.munlockall(context, answer),
            Op::Msync { addr, len, .. } => {
                let end = addr + len.next_multiple_of(PAGE_BYTES);
                let hole = self.process(pid).extents.first_hole(addr, end) < end;
                expect(answer, if hole { error(Errno::ENOMEM) } else { value(0) }, "msync")
            }
            Op::Brk { addr } => {
                let before = self.process(pid).brk;
                self.brk(context, addr, answer)?;
                let (old, new) = (before.next_multiple_of(PAGE_BYTES), addr.next_multiple_of(PAGE_BYTES));
                if answer == value(addr) && new > old {
                    let locked = self.process(pid).def_flags & (VM_LOCKED | VM_LOCKONFAULT) == VM_LOCKED;
                    let _ = if locked { self.populate(context, old, new) } else { Ok(()) };
                }
                Ok(())
            }
            Op::Fork => self.fork(context, answer),
            Op::Exec => {
                let process = self.process_mut(pid);
                *process = Process { brk: process.brk, ..Process::default() };
                expect(answer, value(0), "exec")
            }
            Op::Exit => {
                self.processes.remove(&pid);
                expect(answer, value(0), "exit")
            }
            Op::Load { addr } => self.load(context, addr, answer),
            Op::Fetch { addr } => self.fetch(context, addr, answer),
            Op::Store { addr, value } => self.store(context, addr, value, answer),
            Op::Peek { addr } => self.peek(context, addr, answer),
            Op::Poke { addr, value } => self.poke(context, addr, value, answer),
            Op::Ftruncate { file, bytes } => self.ftruncate(file, bytes, answer),
            Op::Punch { file, offset, len } => self.punch(context, (file, offset, len), answer),
            Op::Fallocate { file, offset, len } => self.fallocate(context, (file, offset, len), answer),
            Op::Pread { file, offset } => self.pread(file, offset, answer),
            Op::Pwrite { file, offset, value } => self.pwrite(context, (file, offset, value), answer),
        }
    }

    fn fork(&mut self, context: Context<'_>, answer: Answer) -> Verdict {
        let Answer::Value(child) = answer else {
            let fine = context.refused && answer == error(Errno::ENOMEM);
            return if fine { Ok(()) } else { Err(format!("fork failed: {answer:?}")) };
        };
        let parent = self.process(context.pid);
        let mut copy = Process { brk: parent.brk, ..parent.clone() };
        copy.def_flags = 0;
        let mut gone = Vec::new();
        for extent in parent.extents.iter() {
            if extent.has(VM_DONTCOPY) {
                copy.extents.remove(extent.start, extent.end);
            }
            if extent.flags & (VM_DONTCOPY | VM_WIPEONFORK) != 0 {
                gone.push((extent.start, extent.end));
            }
        }
        copy.extents.update_each(|extent| extent.flags & !(VM_LOCKED | VM_LOCKONFAULT));
        self.processes.insert(child as u32, copy);
        for (start, end) in gone {
            self.forget_private(child as u32, start, end);
        }
        Ok(())
    }

    /// May this access have failed for want of memory? A stack may have grown before.
    fn starved(&mut self, context: Context<'_>, addr: u64, answer: Answer) -> bool {
        let page = addr & !(PAGE_BYTES - 1);
        let short = matches!(answer, Answer::Fault(FaultOutcome::OutOfMemory) | Answer::Error(Errno::ENOMEM))
            && context.refused;
        let extents = &self.process(context.pid).extents;
        let dry = matches!(answer, Answer::Fault(FaultOutcome::BusAdrErr) | Answer::Error(Errno::EFAULT))
            && (context.refused || context.spare_huge() == 0)
            && extents.find(page).is_some_and(|extent| extent.has(VM_HUGETLB));
        if short && extents.find(page).is_none() && context.maps(page, page + 1) {
            // It grew, and then there was no page.
            let _ = self.access(context.pid, page, Want::Read);
        }
        short || dry
    }

    pub(super) fn load(&mut self, context: Context<'_>, addr: u64, answer: Answer) -> Verdict {
        if self.starved(context, addr, answer) {
            return Ok(());
        }
        let found = self.access(context.pid, addr, Want::Read);
        let wanted =
            found.map_or_else(fault, |words| value(words[usize::from(!addr.is_multiple_of(PAGE_BYTES))]));
        expect(answer, wanted, &format!("load at {addr:#x} of process {}", context.pid))
    }

    fn fetch(&mut self, context: Context<'_>, addr: u64, answer: Answer) -> Verdict {
        if self.starved(context, addr, answer) {
            return Ok(());
        }
        let found = self.access(context.pid, addr, Want::Exec);
        expect(answer, found.map_or_else(fault, |_| value(0)), &format!("fetch at {addr:#x}"))
    }

    fn store(&mut self, context: Context<'_>, addr: u64, word: u64, answer: Answer) -> Verdict {
        if self.starved(context, addr, answer) {
            return Ok(());
        }
        let found = self.access(context.pid, addr, Want::Write);
        expect(answer, found.map_or_else(fault, |_| value(0)), &format!("store at {addr:#x}"))?;
        if found.is_ok() {
            self.put(context.pid, addr, word);
        }
        Ok(())
    }

    fn peek(&mut self, context: Context<'_>, addr: u64, answer: Answer) -> Verdict {
        if self.starved(context, addr, answer) {
            return Ok(());
        }
        let found = self.access(context.pid, addr, Want::Read);
        let word = found.map(|words| words[usize::from(!addr.is_multiple_of(PAGE_BYTES))]);
        expect(answer, word.map_or(error(Errno::EFAULT), value), "read of user memory")
    }

    fn poke(&mut self, context: Context<'_>, addr: u64, word: u64, answer: Answer) -> Verdict {
        if self.starved(context, addr, answer) {
            return Ok(());
        }
        let found = self.access(context.pid, addr, Want::Write);
        expect(answer, found.map_or(error(Errno::EFAULT), |_| value(0)), "write of user memory")?;
        if found.is_ok() {
            self.put(context.pid, addr, word);
        }
        Ok(())
    }
}
