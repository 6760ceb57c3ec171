//! The pool of huge pages as /proc/sys/vm and /sys/kernel/mm/hugepages show it.

use super::text::Text;
use super::virt::number;
use ptshare_abi::Errno;
use ptshare_machine::Machine;
use ptshare_mm::hugetlb;

fn count(t: &mut Text, which: usize) {
    let counts = hugetlb::counts(&Machine);
    t.dec(counts.get(which).copied().unwrap_or(0)).c(b'\n');
}

/// nr_hugepages.
pub fn total(t: &mut Text) {
    count(t, 0);
}

/// free_hugepages.
pub fn free(t: &mut Text) {
    count(t, 1);
}

/// resv_hugepages.
pub fn reserved(t: &mut Text) {
    count(t, 2);
}

/// surplus_hugepages.
pub fn surplus(t: &mut Text) {
    count(t, 3);
}

/// nr_overcommit_hugepages.
pub fn overcommit(t: &mut Text) {
    t.dec(hugetlb::overcommit(&Machine)).c(b'\n');
}

/// A write to nr_hugepages: the pool comes as near to the number as it can.
///
/// # Errors
/// EINVAL for what is no number.
pub fn resize(line: &[u8]) -> Result<(), Errno> {
    hugetlb::resize(&Machine, number(line).ok_or(Errno::EINVAL)?);
    Ok(())
}

/// A write to nr_overcommit_hugepages.
///
/// # Errors
/// EINVAL for what is no number.
pub fn set_overcommit(line: &[u8]) -> Result<(), Errno> {
    hugetlb::set_overcommit(&Machine, number(line).ok_or(Errno::EINVAL)?);
    Ok(())
}
