//! `table-present-count`. Reads: `aux` of every table, and its entries that are not zero. A root may count its kernel half
//! or leave it out.

use ptshare_paging::Level;
use ptshare_wire::FrameKind;

use crate::census::Mm;
use crate::frames::Frames;
use crate::graph::Table;
use crate::report::{Finding, RuleInfo, Sink};

pub(crate) const RULE: RuleInfo = RuleInfo {
    name: "table-present-count",
    statement: "a table's metadata counts its entries that are not zero",
    why: "a table goes when its count reaches 0: too low frees a table in use, too high keeps an empty one for ever",
};

/// Judges one table.
pub(crate) fn table(table: &Table, frames: &Frames, mms: &[Mm], sink: &mut Sink) {
    let Some(frame) = frames.get(table.pfn).filter(|f| f.kind() == Some(FrameKind::Table)) else { return };
    let counts = [table.nonzero, table.nonzero_all].map(u32::from);
    if table.walked && !counts.contains(&frame.aux) {
        sink.report(&RULE, || {
            let expected = if table.level == Level::Pgd {
                format!("aux = {} (user half) or {} (all)", counts[0], counts[1])
            } else {
                format!("aux = {}, the entries that are not zero", counts[0])
            };
            let finding = Finding::new(&RULE, expected, format!("aux = {}", frame.aux))
                .va(table.base)
                .level(table.level as u8)
                .frame(table.pfn);
            match mms.get(table.mm as usize) {
                Some(mm) => finding.mm(mm.id),
                None => finding,
            }
        });
    }
}
