//! For people: what a guest looked like. Text about the processes of an image and about one address, as
//! `ptshare-inspect` and a VMM's crash report print it.

use std::fmt::Write;

use ptshare_paging::{ENTRIES, Level, Pte};
use ptshare_wire::FrameKind;

use crate::census::{Census, Mm};
use crate::frames::{Frames, Place};
use crate::report::{Sink, level_name};
use crate::rules::rights_within_vma::describe;
use crate::view::PhysView;

/// The parts of a guest that the texts need; `None` if its census is broken.
fn open(view: &dyn PhysView, census_pa: u64) -> Option<(Census, Vec<Mm>)> {
    let mut sink = Sink::new(0);
    let census = Census::read(view, census_pa, &mut sink)?;
    let mms = census.mms(view, &mut sink)?;
    Some((census, mms))
}

/// A line for the memory, one for each CPU and process, and with `vmas` one for each VMA. Says so if the census is
/// broken.
pub fn summary(view: &dyn PhysView, census_pa: u64, vmas: bool) -> String {
    let Some((census, mms)) = open(view, census_pa) else {
        return format!("no sound census at {census_pa:#x}\n");
    };
    let mut text = String::new();
    for ram in &census.ram {
        let _ = writeln!(
            text,
            "memory  frames {:#x}..{:#x}, given out below {:#x}",
            ram.start, ram.end, ram.virgin
        );
    }
    let _ = writeln!(
        text,
        "books   {} frames on free lists, {} of the kernel",
        census.free_frames, census.kernel_frames
    );
    for (index, cpu) in census.cpus(view, &mut Sink::new(0)).unwrap_or_default().iter().enumerate() {
        let state = match (cpu.online, cpu.critical, cpu.mm_slot) {
            (false, ..) => "offline".to_string(),
            (_, 1.., _) => "inside a critical section".to_string(),
            (_, _, 0) => "in the kernel's own root".to_string(),
            (_, _, slot) => format!("runs mm slot {}", slot - 1),
        };
        let _ = writeln!(text, "cpu {index}   {state}");
    }
    for mm in &mms {
        let _ = writeln!(
            text,
            "process {}: root {:#x}, {} table pages, {} VMAs, CPUs {:#x}",
            mm.id,
            mm.root,
            mm.table_pages,
            mm.vmas.len(),
            mm.cpumask
        );
        for vma in mm.vmas.iter().filter(|_| vmas) {
            let _ = writeln!(text, "  {}", describe(vma));
        }
    }
    text
}

/// The path that translates `va` in each address space of process `pid`, entry by entry with what the metadata say of the
/// frame, and the VMA.
pub fn path(view: &dyn PhysView, census_pa: u64, pid: u64, va: u64) -> String {
    let Some((census, mms)) = open(view, census_pa) else {
        return format!("no sound census at {census_pa:#x}\n");
    };
    let Some(frames) = Frames::read(view, &census, &mut Sink::new(0)) else {
        return "the frame array is not in memory\n".into();
    };
    let mut text = String::new();
    for mm in mms.iter().filter(|mm| mm.id.pid == pid) {
        let _ = writeln!(text, "{}, va {va:#x}", mm.id);
        match mm.vmas.iter().find(|v| v.start <= va && va < v.end) {
            Some(vma) => drop(writeln!(text, "  {}", describe(vma))),
            None => drop(writeln!(text, "  no VMA")),
        }
        let _ = writeln!(text, "  root       {}", frame_text(&frames, mm.root));
        let mut table = mm.root;
        for level in Level::TOP_DOWN {
            let mut page = [0; ENTRIES];
            if !view.read_page(table, &mut page) {
                let _ = writeln!(text, "  frame {table:#x} is not memory");
                break;
            }
            let slot = level.slot(va).index();
            let pte = Pte(page[slot]);
            let _ = writeln!(text, "  {}[{slot:3}]   {:#018x} {pte}", level_name(level as u8), pte.0);
            if !pte.present() {
                break;
            }
            table = pte.pfn().0;
            let _ = writeln!(text, "             {}", frame_text(&frames, table));
            if pte.is_leaf(level) {
                break;
            }
        }
    }
    if text.is_empty() { format!("no address space of process {pid}\n") } else { text }
}

/// What the metadata say of a frame.
fn frame_text(frames: &Frames, pfn: u64) -> String {
    match frames.place(pfn) {
        Place::Known(frame) => {
            let kind = frame.kind().map_or_else(|| format!("state {:#x}", frame.state), |k| format!("{k:?}"));
            let level = match frame.kind() {
                Some(FrameKind::Table) => format!(" level {}", frame.level()),
                _ => String::new(),
            };
            format!("frame {pfn:#x}: {kind}{level}, refs {}, aux {}", frame.refs, frame.aux)
        }
        Place::Virgin => format!("frame {pfn:#x}: never given out"),
        Place::Reserved => format!("frame {pfn:#x}: reserved"),
        Place::Outside => format!("frame {pfn:#x}: no memory of the census"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::sample;

    #[test]
    fn the_summary_lists_processes_and_a_path_its_entries() {
        let guest = sample();
        let text = summary(&guest.image, guest.census_pa, true);
        assert!(
            text.contains("process pid 3 (mm slot 2)") && text.contains("cpu 1   in the kernel's own root")
        );
        assert!(text.contains("VMA 400000-404000 r-xp object 1 page 0x0"), "{text}");
        let text = path(&guest.image, guest.census_pa, 2, 0x100_0000);
        assert!(
            text.contains("PGD[  0]") && text.contains("PTE[  0]") && text.contains("Anon, refs 1"),
            "{text}"
        );
        assert!(path(&guest.image, guest.census_pa, 77, 0).contains("no address space"));
        assert!(summary(&guest.image, 0, false).contains("no sound census"));
    }
}
