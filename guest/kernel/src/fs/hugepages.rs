//! The pools of huge pages as /proc/sys/vm and /sys/kernel/mm/hugepages show them. `SIZE` is a size's
//! [`HugeSize::index`].

use super::text::Text;
use super::virt::number;
use ptshare_abi::Errno;
use ptshare_machine::Machine;
use ptshare_mm::hugetlb::{self, HugeSize};

/// Pages of 2 MiB.
pub const MIB2: usize = HugeSize::Mib2.index();
/// Pages of 1 GiB.
pub const GIB1: usize = HugeSize::Gib1.index();

fn count<const SIZE: usize>(t: &mut Text, which: usize) {
    let counts = hugetlb::counts(&Machine, HugeSize::ALL[SIZE]);
    t.dec(counts.get(which).copied().unwrap_or(0)).c(b'\n');
}

/// nr_hugepages.
pub fn total<const SIZE: usize>(t: &mut Text) {
    count::<SIZE>(t, 0);
}

/// free_hugepages.
pub fn free<const SIZE: usize>(t: &mut Text) {
    count::<SIZE>(t, 1);
}

/// resv_hugepages.
pub fn reserved<const SIZE: usize>(t: &mut Text) {
    count::<SIZE>(t, 2);
}

/// surplus_hugepages.
pub fn surplus<const SIZE: usize>(t: &mut Text) {
    count::<SIZE>(t, 3);
}

/// nr_overcommit_hugepages.
pub fn overcommit<const SIZE: usize>(t: &mut Text) {
    t.dec(hugetlb::overcommit(&Machine, HugeSize::ALL[SIZE])).c(b'\n');
}

/// A write to nr_hugepages: the pool comes as near to the number as it can.
///
/// # Errors
/// EINVAL for what is no number.
pub fn resize<const SIZE: usize>(line: &[u8]) -> Result<(), Errno> {
    hugetlb::resize(&Machine, HugeSize::ALL[SIZE], number(line).ok_or(Errno::EINVAL)?);
    Ok(())
}

/// A write to nr_overcommit_hugepages.
///
/// # Errors
/// EINVAL for what is no number, and for pages of 1 GiB (`nr_overcommit_hugepages_store`, mm/hugetlb_sysfs.c).
pub fn set_overcommit<const SIZE: usize>(line: &[u8]) -> Result<(), Errno> {
    let pages = number(line).ok_or(Errno::EINVAL)?;
    hugetlb::set_overcommit(&Machine, HugeSize::ALL[SIZE], pages).map_err(|_| Errno::EINVAL)
}

/// /proc/sys/vm/nr_hugepages: the pool of the default size.
pub fn default_total(t: &mut Text) {
    let [total, ..] = hugetlb::counts(&Machine, hugetlb::default_size(&Machine));
    t.dec(total).c(b'\n');
}

/// A write to it.
///
/// # Errors
/// EINVAL for what is no number.
pub fn resize_default(line: &[u8]) -> Result<(), Errno> {
    let pages = number(line).ok_or(Errno::EINVAL)?;
    hugetlb::resize(&Machine, hugetlb::default_size(&Machine), pages);
    Ok(())
}

/// /proc/sys/vm/nr_overcommit_hugepages.
pub fn default_overcommit(t: &mut Text) {
    t.dec(hugetlb::overcommit(&Machine, hugetlb::default_size(&Machine))).c(b'\n');
}

/// A write to it.
///
/// # Errors
/// EINVAL for what is no number, and for pages of 1 GiB (`hugetlb_overcommit_handler`).
pub fn set_default_overcommit(line: &[u8]) -> Result<(), Errno> {
    let pages = number(line).ok_or(Errno::EINVAL)?;
    hugetlb::set_overcommit(&Machine, hugetlb::default_size(&Machine), pages).map_err(|_| Errno::EINVAL)
}
