//! The guest's answers, and the end of the building: frames, records and the census header are written out.

use super::*;

impl Builder {
    /// The kernel's answer where `pfn` is mapped.
    pub fn answer_frame(&mut self, pfn: u64, places: &[(MmIndex, u64)]) {
        let (frames, first, _) = self.answered;
        let at = ANSWERS + (offset_of!(Answers, frame) + frames as usize * size_of::<FrameAnswer>()) as u64;
        self.put(at, offset_of!(FrameAnswer, pfn), pfn);
        self.put(at, offset_of!(FrameAnswer, first), first);
        self.put(at, offset_of!(FrameAnswer, places), places.len() as u64);
        for (i, (mm, va)) in places.iter().enumerate() {
            let place = (first as usize + i) * size_of::<PlaceAnswer>();
            let at = ANSWERS + (offset_of!(Answers, place) + place) as u64;
            self.put(at, offset_of!(PlaceAnswer, slot), mm.0 as u64);
            self.put(at, offset_of!(PlaceAnswer, va), *va);
        }
        self.answered.0 += 1;
        self.answered.1 += places.len() as u64;
    }

    /// The kernel's answer what /proc shows of `mm`: private pages, pages of objects, and hugetlb pages in units of 4 KiB; of
    /// its tables, `shared` are shared by two.
    pub fn answer_usage(&mut self, mm: MmIndex, [anon, object, hugetlb]: [u64; 3], shared: u64) {
        let record = self.answered.2 as usize * size_of::<UsageAnswer>();
        let at = ANSWERS + (offset_of!(Answers, usage) + record) as u64;
        let tables = self.spaces[mm.0].table_pages;
        for (field, word) in [
            (offset_of!(UsageAnswer, slot), mm.0 as u64),
            (offset_of!(UsageAnswer, rss_anon), anon),
            (offset_of!(UsageAnswer, rss_object), object),
            (offset_of!(UsageAnswer, hugetlb), hugetlb),
            (offset_of!(UsageAnswer, tables), tables),
            (offset_of!(UsageAnswer, tables_shared), shared),
            (offset_of!(UsageAnswer, tables_prop), (tables - shared) * PAGE_BYTES + shared * PAGE_BYTES / 2),
        ] {
            self.put(at, field, word);
        }
        self.answered.2 += 1;
    }

    /// Writes the books: VMA lists, free blocks of the orders 0 to 3, metadata, tables, header.
    pub fn finish(mut self) -> Guest {
        for index in 0..self.spaces.len() {
            self.publish_mm(index);
        }
        let free = self.free_blocks();
        let is_table = |m: &&Meta| m.state & 0xff == FrameKind::Table as u32;
        let tables = self.metas.values().filter(is_table).count() as u64;
        let shared = self.metas.values().filter(is_table).filter(|m| m.refs > 1).count() as u64;
        let stats = offset_of!(CensusHeader, stats);
        self.put(HEADER, stats + offset_of!(Stats, tables_now), tables);
        self.put(HEADER, stats + offset_of!(Stats, tables_shared_now), shared);
        let (frames, _, usages) = self.answered;
        self.put(ANSWERS, offset_of!(Answers, frames), frames);
        self.put(ANSWERS, offset_of!(Answers, usages), usages);
        for (pfn, meta) in std::mem::take(&mut self.metas) {
            let pa = self.frame_array + pfn * FRAME_META_BYTES;
            self.put32(pa, offset_of!(FrameMeta, refs), meta.refs);
            self.put32(pa, offset_of!(FrameMeta, state), meta.state);
            self.put32(pa, offset_of!(FrameMeta, aux), meta.aux);
            self.put(pa, offset_of!(FrameMeta, a), meta.a);
            self.put(pa, offset_of!(FrameMeta, b), meta.b);
        }
        let vcpus = std::mem::take(&mut self.vcpus);
        for (vcpu, mm) in &vcpus {
            let pa = CPU_TABLE + u64::from(vcpu.index) * size_of::<CpuRec>() as u64;
            self.put32(pa, offset_of!(CpuRec, online), 1);
            self.put(pa, offset_of!(CpuRec, mm_slot), mm.map_or(0, |mm| mm.0 as u64 + 1));
            self.put(pa, offset_of!(CpuRec, pid), mm.map_or(0, |mm| self.spaces[mm.0].pid));
        }
        self.header(free, vcpus.len() as u64);
        Guest { image: self.image, census_pa: HEADER, vcpus: vcpus.into_iter().map(|(v, _)| v).collect() }
    }

    fn header(&mut self, free: u64, cpus: u64) {
        let head = |field: usize| (HEADER, field);
        let ram = offset_of!(CensusHeader, ram);
        let reserved = offset_of!(CensusHeader, reserved);
        for ((pa, field), word) in [
            (head(offset_of!(CensusHeader, magic)), CENSUS_MAGIC),
            (head(ram + offset_of!(RamRange, start)), self.ram_start),
            (head(ram + offset_of!(RamRange, virgin)), self.next),
            (head(ram + offset_of!(RamRange, end)), self.frames),
            (head(reserved + offset_of!(ReservedRange, start)), HEADER),
            (head(reserved + offset_of!(ReservedRange, end)), self.ram_start * PAGE_BYTES),
            (head(offset_of!(CensusHeader, frame_array)), self.frame_array),
            (head(offset_of!(CensusHeader, frames)), self.frames),
            (head(offset_of!(CensusHeader, free_frames)), free),
            (head(offset_of!(CensusHeader, kernel_frames)), self.kernel_frames),
            (head(offset_of!(CensusHeader, mm_table)), MM_TABLE),
            (head(offset_of!(CensusHeader, mm_high)), self.spaces.len() as u64 + 2),
            (head(offset_of!(CensusHeader, cpu_table)), CPU_TABLE),
            (head(offset_of!(CensusHeader, cpus)), cpus),
            (head(offset_of!(CensusHeader, kernel_root)), KERNEL_ROOT),
            (head(offset_of!(CensusHeader, zero_page)), self.zero),
            (head(offset_of!(CensusHeader, answers)), ANSWERS),
        ] {
            self.put(pa, field, word);
        }
        for size in HugeSize::ALL.map(HugeSize::index) {
            let pool = offset_of!(CensusHeader, hugetlb) + size * size_of::<HugetlbCounts>();
            let ((total, free), promised) = (self.hugetlb[size], self.promised[size]);
            for (field, word) in [
                (offset_of!(HugetlbCounts, total), total),
                (offset_of!(HugetlbCounts, free), free),
                (offset_of!(HugetlbCounts, reserved), free),
                (offset_of!(HugetlbCounts, promised), free - promised),
            ] {
                self.put(HEADER, pool + field, word);
            }
        }
        self.put32(HEADER, offset_of!(CensusHeader, version), CENSUS_VERSION);
        self.put32(HEADER, offset_of!(CensusHeader, header_bytes), size_of::<CensusHeader>() as u32);
    }

    /// Lays free blocks of each order from 0 to 3 after the frames in use; gives the number of frames in them.
    fn free_blocks(&mut self) -> u64 {
        let begin = self.next;
        for order in [0u8, 1, 0, 2, 3] {
            let flags = FLAG_HEAD | if order == 3 { FLAG_ZEROED } else { 0 };
            self.metas
                .insert(self.next, Meta { state: state(FrameKind::Free, order, flags), ..Meta::default() });
            self.next += 1 << order;
        }
        self.next - begin
    }

    /// Writes the mm record and its VMAs, three to a chunk, into kernel frames.
    fn publish_mm(&mut self, index: usize) {
        let list = self.frame(FrameKind::Kernel) * PAGE_BYTES;
        let chunks: Vec<Vec<VmaRec>> = self.spaces[index].vmas.chunks(3).map(<[VmaRec]>::to_vec).collect();
        for (i, chunk) in chunks.iter().enumerate() {
            let at = self.frame(FrameKind::Kernel) * PAGE_BYTES;
            self.put(list, 8 * i, LINEAR_BASE + at);
            self.put(at, 0, chunk.len() as u64);
            for (v, vma) in chunk.iter().enumerate() {
                let pa = at + 8 + v as u64 * VMA_STRIDE;
                self.put(pa, offset_of!(VmaRec, start), vma.start);
                self.put(pa, offset_of!(VmaRec, end), vma.end);
                self.put(pa, offset_of!(VmaRec, flags), vma.flags);
                self.put(pa, offset_of!(VmaRec, pgoff), vma.pgoff);
                self.put(pa, offset_of!(VmaRec, object), vma.object);
            }
        }
        let pa = MM_TABLE + (index * size_of::<MmRec>()) as u64;
        let space = &self.spaces[index];
        for (field, word) in [
            (offset_of!(MmRec, root), space.root),
            (offset_of!(MmRec, pid), space.pid),
            (offset_of!(MmRec, family), space.family),
            (offset_of!(MmRec, hugetlb_reserved), space.hugetlb_reserved[0]),
            (offset_of!(MmRec, hugetlb_reserved) + 8, space.hugetlb_reserved[1]),
            (offset_of!(MmRec, cpumask), space.cpumask),
            (offset_of!(MmRec, vma_index), LINEAR_BASE + list),
            (offset_of!(MmRec, vma_chunks), chunks.len() as u64),
            (offset_of!(MmRec, vma_count), space.vmas.len() as u64),
            (offset_of!(MmRec, vma_stride), VMA_STRIDE),
            (offset_of!(MmRec, table_pages), space.table_pages),
        ] {
            self.image.write_u64(pa + field as u64, word);
        }
    }

    fn put(&mut self, pa: u64, field: usize, word: u64) {
        self.image.write_u64(pa + field as u64, word);
    }

    fn put32(&mut self, pa: u64, field: usize, word: u32) {
        self.image.write_u32(pa + field as u64, word);
    }
}
