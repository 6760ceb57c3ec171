//! The core under the judge: `ptshare-mm` runs on its arena, and `ptshare-verifier` reads the arena's memory as it would
//! read a guest's. Neither knows the other; this crate only carries words from one to the other.

pub mod args;
pub mod model;
pub mod random;
pub mod trace;

use ptshare_mm::Mm;
use ptshare_mm::testing::{Arena, Image};
use ptshare_verifier::{Aids, History, Options, PhysView, Report, Vcpu, verify, verify_with};

/// Reads an arena's image as guest-physical memory.
pub struct View(pub Image);

impl PhysView for View {
    fn read_bytes(&self, pa: u64, out: &mut [u8]) -> bool {
        let mut at = pa;
        let mut rest = out;
        while !rest.is_empty() {
            let word = self.0.read_u64(at & !7).to_le_bytes();
            let from = (at & 7) as usize;
            let len = rest.len().min(8 - from);
            let (part, after) = rest.split_at_mut(len);
            part.copy_from_slice(&word[from..from + len]);
            at += len as u64;
            rest = after;
        }
        true
    }

    fn read_u64(&self, pa: u64) -> Option<u64> {
        Some(self.0.read_u64(pa))
    }
}

/// The arena's first CPU.
pub fn vcpu(arena: &Arena) -> Vcpu {
    Vcpu { index: 0, cr3: arena.cr3().pa().0, user: false }
}

/// The judge's report on these address spaces of an arena.
pub fn judge(arena: &Arena, mms: &[&Mm<Arena>]) -> Report {
    verify(&View(arena.image_of_tables(mms)), Image::HEADER_PA, &[vcpu(arena)], &Options::default())
}

/// [`judge`], which compares shared tables with what they were when it was last asked with this `history`.
pub fn judge_again(arena: &Arena, mms: &[&Mm<Arena>], history: &mut History) -> Report {
    let view = View(arena.image_of_tables(mms));
    let aids = Aids { history: Some(history), ..Aids::default() };
    verify_with(&view, Image::HEADER_PA, &[vcpu(arena)], &Options::default(), aids)
}
