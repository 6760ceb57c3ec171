//! Second opinions: single addresses that something else translates too (KVM_TRANSLATE, QEMU's `gva2gpa`), so that a mistake
//! of the judge's own walk does not stay unnoticed.

use ptshare_paging::{ENTRIES, Level, PAGE_BYTES, Pte, USER_END};
use ptshare_wire::layout::KERNEL_HALF_SLOT;

use crate::Vcpu;
use crate::census::Mm;
use crate::report::Sink;
use crate::rules::kvm_translate_agrees;
use crate::view::PhysView;

/// Addresses for each CPU: leaves found by going down at random, ends of VMAs, and any addresses.
const LEAVES: usize = 8;
const ENDS: usize = 4;
const ANY: usize = 4;

/// Physical addresses of virtual ones as CPU number so-and-so translates them; `None` for each that it does not.
pub type Translate<'a> = dyn FnMut(u32, &[u64]) -> Result<Vec<Option<u64>>, String> + 'a;

/// SplitMix64 (Steele, Lea, Flood, OOPSLA 2014).
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % n.max(1)
    }
}

/// The physical address behind `va` by the tables under `root`; `None` if an entry on the way is absent.
pub(crate) fn translate(view: &dyn PhysView, root: u64, va: u64) -> Option<u64> {
    let mut table = root;
    for level in Level::TOP_DOWN {
        let pa = table.checked_mul(PAGE_BYTES)? + level.slot(va).index() as u64 * 8;
        let pte = Pte(view.read_u64(pa)?);
        if !pte.present() {
            return None;
        }
        if pte.is_leaf(level) {
            let within = level.entry_bytes() - 1;
            return Some(pte.pfn().pa().0 & !within | va & within);
        }
        table = pte.pfn().0;
    }
    None
}

/// Some address that the tables under `root` map.
fn some_leaf(view: &dyn PhysView, root: u64, random: &mut Random) -> Option<u64> {
    let (mut table, mut va) = (root, 0);
    let mut page = [0; ENTRIES];
    for level in Level::TOP_DOWN {
        if !view.read_page(table, &mut page) {
            return None;
        }
        let slots = if level == Level::Pgd { KERNEL_HALF_SLOT } else { ENTRIES };
        let present = |slot: &usize| Pte(page[*slot]).present();
        let nth = random.below((0..slots).filter(present).count() as u64);
        let slot = (0..slots).filter(present).nth(nth as usize)?;
        let pte = Pte(page[slot]);
        va += (slot as u64) << level.shift();
        if pte.is_leaf(level) {
            return Some(va + random.below(level.entry_bytes()));
        }
        table = pte.pfn().0;
    }
    None
}

fn addresses(view: &dyn PhysView, mm: &Mm, random: &mut Random) -> Vec<u64> {
    let mut list: Vec<u64> = (0..LEAVES).filter_map(|_| some_leaf(view, mm.root, random)).collect();
    if !mm.vmas.is_empty() {
        for _ in 0..ENDS {
            let vma = &mm.vmas[random.below(mm.vmas.len() as u64) as usize];
            list.push(match random.below(4) {
                0 => vma.start,
                1 => vma.end.saturating_sub(1),
                2 => vma.start.saturating_sub(1),
                _ => vma.end,
            });
        }
    }
    list.extend((0..ANY).map(|_| random.below(USER_END)));
    list.retain(|va| *va < USER_END);
    list
}

/// Asks about addresses of the address space in which each CPU is. Gives how many agreed, or why there was no answer.
pub(crate) fn ask(
    view: &dyn PhysView,
    vcpus: &[Vcpu],
    mms: &[Mm],
    seed: u64,
    translator: &mut Translate<'_>,
    sink: &mut Sink,
) -> Result<u64, String> {
    let mut random = Random(seed);
    let mut asked = 0;
    for vcpu in vcpus {
        let root = Pte(vcpu.cr3).pfn().0;
        let Some(mm) = mms.iter().find(|mm| mm.root == root) else { continue };
        let list = addresses(view, mm, &mut random);
        let answers = translator(vcpu.index, &list)?;
        for (va, theirs) in list.into_iter().zip(answers) {
            asked += 1;
            kvm_translate_agrees::address(vcpu, mm, va, translate(view, root, va), theirs, sink);
        }
    }
    Ok(asked)
}
