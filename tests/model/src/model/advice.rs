//! madvise.

use super::access::Want;
use super::*;
use ptshare_abi::sys::general as abi;
use ptshare_mm::vma::{
    VM_DONTCOPY, VM_DONTDUMP, VM_HUGETLB, VM_LOCKED, VM_MAYWRITE, VM_RAND_READ, VM_READ, VM_SEQ_READ,
    VM_SHARED, VM_WIPEONFORK, VM_WRITE,
};
use ptshare_paging::PAGE_SHIFT;

/// The flags that an advice sets and clears.
fn flag_change(advice: u32) -> Option<(u64, u64)> {
    Some(match advice {
        abi::MADV_NORMAL => (0, VM_RAND_READ | VM_SEQ_READ),
        abi::MADV_RANDOM => (VM_RAND_READ, VM_SEQ_READ),
        abi::MADV_SEQUENTIAL => (VM_SEQ_READ, VM_RAND_READ),
        abi::MADV_DONTFORK => (VM_DONTCOPY, 0),
        abi::MADV_DOFORK => (0, VM_DONTCOPY),
        abi::MADV_WIPEONFORK => (VM_WIPEONFORK, 0),
        abi::MADV_KEEPONFORK => (0, VM_WIPEONFORK),
        abi::MADV_DONTDUMP => (VM_DONTDUMP, 0),
        abi::MADV_DODUMP => (0, VM_DONTDUMP),
        _ => return None,
    })
}

impl Model {
    pub(super) fn madvise(
        &mut self,
        context: Context<'_>,
        (addr, len, advice): (u64, u64, u32),
        answer: Answer,
    ) -> Verdict {
        if !addr.is_multiple_of(PAGE_BYTES) {
            return expect(answer, error(Errno::EINVAL), "madvise of nonsense");
        }
        let end = addr + len.next_multiple_of(PAGE_BYTES);
        if end == addr {
            return expect(answer, value(0), "madvise of nothing");
        }
        match advice {
            abi::MADV_POPULATE_READ | abi::MADV_POPULATE_WRITE => {
                self.advise_populate(context, (addr, end), advice == abi::MADV_POPULATE_WRITE, answer)
            }
            abi::MADV_REMOVE => self.advise_remove(context, addr, end, answer),
            abi::MADV_DONTNEED | abi::MADV_DONTNEED_LOCKED | abi::MADV_FREE => {
                self.advise_discard(context, (addr, end), advice, answer)
            }
            _ => match flag_change(advice) {
                Some(change) => self.advise_flags(context, (addr, end), change, answer),
                None => expect(answer, error(Errno::EINVAL), "unknown advice"),
            },
        }
    }

    /// What an advice must answer that was taken up to `stop`, the first mapping that refused it.
    fn walked(&self, pid: u32, (start, end): (u64, u64), stop: Option<u64>) -> Answer {
        if stop.is_some() {
            error(Errno::EINVAL)
        } else if self.process(pid).extents.first_hole(start, end) < end {
            error(Errno::ENOMEM)
        } else {
            value(0)
        }
    }

    fn advise_flags(
        &mut self,
        context: Context<'_>,
        (start, end): (u64, u64),
        (set, clear): (u64, u64),
        answer: Answer,
    ) -> Verdict {
        let parts = self.process(context.pid).extents.parts(start, end);
        let refuses =
            |part: &&Extent| set & VM_WIPEONFORK != 0 && (part.file.is_some() || part.has(VM_SHARED));
        let stop = parts.iter().find(refuses).map(|part| part.start);
        let upto = stop.unwrap_or(end);
        let update = |extent: &Extent| extent.flags & !clear | set;
        if self.cuts_huge_if(context.pid, start, upto, |extent| update(extent) != extent.flags) {
            return expect(answer, error(Errno::EINVAL), "advice on a part of a huge page");
        }
        let wanted = self.walked(context.pid, (start, end), stop);
        if context.refused && answer == error(Errno::ENOMEM) {
            let mut done = true;
            context.kernel.mm(context.pid).for_each_vma(&mut |vma| {
                if vma.start < upto && start < vma.end {
                    done &= vma.flags & (set | clear) == set;
                }
            });
            if !done {
                return Ok(());
            }
        } else {
            expect(answer, wanted, "advice")?;
        }
        self.process_mut(context.pid).extents.update(start, upto, update);
        Ok(())
    }

    fn advise_discard(
        &mut self,
        context: Context<'_>,
        (start, end): (u64, u64),
        advice: u32,
        answer: Answer,
    ) -> Verdict {
        let extents = &self.process(context.pid).extents;
        let refuses = |part: &&Extent| match advice {
            _ if part.has(VM_HUGETLB) => advice == abi::MADV_FREE || !part.start.is_multiple_of(HUGE),
            abi::MADV_DONTNEED_LOCKED => false,
            abi::MADV_FREE => part.file.is_some() || part.has(VM_LOCKED),
            _ => part.has(VM_LOCKED),
        };
        // Of the last huge page nothing is discarded unless all is.
        let huge = extents.find(end).is_some_and(|extent| extent.has(VM_HUGETLB));
        let upto = if huge { end & !(HUGE - 1) } else { end };
        let parts = extents.parts(start, end);
        let stop = parts.iter().find(refuses).map(|part| part.start);
        let wanted = self.walked(context.pid, (start, end), stop);
        if context.refused && answer == error(Errno::ENOMEM) && wanted != answer {
            return Ok(());
        }
        if context.refused && wanted == error(Errno::ENOMEM) {
            return Err("the model cannot tell a refusal from a hole here".into());
        }
        expect(answer, wanted, "discard")?;
        let upto = stop.unwrap_or(upto).min(upto);
        if start < upto {
            self.forget_private(context.pid, start, upto);
        }
        Ok(())
    }

    fn advise_remove(&mut self, context: Context<'_>, start: u64, end: u64, answer: Answer) -> Verdict {
        let parts = self.process(context.pid).extents.parts(start, end);
        let refusal = |part: &Extent| {
            if part.has(VM_LOCKED) || part.file.is_none() {
                Some(Errno::EINVAL)
            } else if !part.has(VM_SHARED | VM_MAYWRITE) {
                Some(Errno::EACCES)
            } else {
                None
            }
        };
        let stop = parts.iter().find_map(|part| Some((part.start, refusal(part)?)));
        let wanted = match stop {
            Some((_, errno)) => error(errno),
            None => self.walked(context.pid, (start, end), None),
        };
        expect(answer, wanted, "MADV_REMOVE")?;
        for part in parts.iter().take_while(|part| stop.is_none_or(|(at, _)| part.start < at)) {
            let file = part.file.expect("only files are punched");
            self.punch_bytes(file, part.first << PAGE_SHIFT, part.end - part.start);
        }
        Ok(())
    }

    fn advise_populate(
        &mut self,
        context: Context<'_>,
        (start, end): (u64, u64),
        write: bool,
        answer: Answer,
    ) -> Verdict {
        if context.refused {
            self.resync(context, start, end);
            let fine = matches!(
                answer,
                Answer::Error(Errno::ENOMEM | Errno::EFAULT | Errno::EINVAL) | Answer::Value(0)
            );
            return if fine { Ok(()) } else { Err(format!("populating gave {answer:?}")) };
        }
        let wanted = self.populate_as(context, start, end, write);
        let dry = context.spare_huge() == 0 && answer == error(Errno::EFAULT);
        if dry {
            self.resync(context, start, end);
            return Ok(());
        }
        expect(answer, wanted.map_or_else(error, |()| value(0)), "populating")
    }

    fn populate_as(&mut self, context: Context<'_>, start: u64, end: u64, write: bool) -> Result<(), Errno> {
        let (needed, want) = if write { (VM_WRITE, Want::Write) } else { (VM_READ, Want::Read) };
        let mut at = start;
        for part in self.process(context.pid).extents.parts(start, end) {
            if part.start > at {
                return Err(Errno::ENOMEM);
            }
            if !part.has(needed) {
                return Err(Errno::EINVAL);
            }
            self.populate_part(context, &part, want)?;
            at = part.end;
        }
        if at < end { Err(Errno::ENOMEM) } else { Ok(()) }
    }
}
