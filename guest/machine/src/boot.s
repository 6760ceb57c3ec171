# PVH entry: 32-bit protected mode, paging off, EBX = address of hvm_start_info (Xen, docs/misc/pvh.pandoc).
# Builds nothing: the boot page tables below are complete at link time. Then long mode, then the higher half.
# The build checks instructions in the mode that the end of a symbol's name says, 16 or 32; others are 64-bit.
# Other CPUs begin in real mode, by INIT and SIPI, or in long mode where our VMM starts them.

    .set VIRT, 0xffffffff80000000
    .set LINEAR_SLOT, 273

    .section .note.Xen, "a", @note
    .align 4
    .long 4                         # name size
    .long 8                         # descriptor size
    .long 18                        # XEN_ELFNOTE_PHYS32_ENTRY
    .asciz "Xen"
    .align 4
    .quad ptshare_start32 - VIRT

    .section .boot.text, "ax", @progbits
    .code32
    .globl ptshare_start32
ptshare_start32:
    cli
    cld
    mov esi, ebx                    # start_info survives in ESI
    mov ebx, offset boot_pgd - VIRT
    mov edi, offset boot_high - VIRT
    lgdt [boot_gdt_ptr - VIRT]
    # To long mode with the root EBX, which maps the first GiB at its own address too; then to EDI in the higher half.
ptshare_to_long32:
    mov cr3, ebx
    mov eax, 0x620                  # CR4: PAE | OSFXSR | OSXMMEXCPT; PGE when the low addresses are gone again
    mov cr4, eax
    mov ecx, 0xc0000080             # EFER: SCE | LME | NXE
    mov eax, 0x901
    xor edx, edx
    wrmsr
    mov eax, 0x80010033             # CR0: PG | WP | NE | ET | MP | PE
    mov cr0, eax
    ljmp 0x10, offset boot_long - VIRT

    .code64
boot_long:
    movabs rax, VIRT
    add rdi, rax
    jmp rdi
boot_high:
    mov eax, 0x18
    mov ds, eax
    mov es, eax
    mov ss, eax
    xor eax, eax
    mov fs, eax
    mov gs, eax
    lea rsp, [rip + ptshare_boot_stack_top]
    xor ebp, ebp
    mov edi, esi
    call ptshare_machine_start
    ud2

    # A CPU that INIT and SIPI start begins in real mode, at the page that the SIPI names (SDM 3A, "MP Initialization
    # Protocol"): smp.rs copies this there. CS:IP = page:0.
    .section .boot.text
    .code16
    .globl ptshare_ap_page16
ptshare_ap_page16:
    cli
    cld
    mov ax, cs
    mov ds, ax
    .byte 0x66, 0x0f, 0x01, 0x16    # lgdt [2f], with the whole of its base
    .word 2f - ptshare_ap_page16
    mov eax, cr0
    or al, 1                        # PE
    mov cr0, eax
    .byte 0x66, 0xea                # ljmp 0x08, ptshare_ap_start32
    .long ptshare_ap_start32 - VIRT
    .word 0x08
    .globl ptshare_ap_gdt_data      # the build does not read this as code: the address may be any bytes
ptshare_ap_gdt_data:
2:
    .word 31
    .long boot_gdt - VIRT
    .globl ptshare_ap_page_end
ptshare_ap_page_end:

    .code32
ptshare_ap_start32:
    mov eax, 0x18
    mov ds, eax
    mov es, eax
    mov ss, eax
    mov ebx, offset ap_pgd - VIRT
    mov edi, offset ap_high - VIRT
    jmp ptshare_to_long32

    .code64
ap_high:
    lea rax, [rip + boot_pgd]
    mov rcx, VIRT
    sub rax, rcx
    mov cr3, rax                    # the kernel's own root
    mov rax, cr4
    or rax, 0x80                    # PGE
    mov cr4, rax
    mov rdi, [rip + ptshare_ap_area]
    jmp cpu_enter                   # the segments are loaded, and their table is no longer mapped where GDTR says

    # Every other CPU starts here, in long mode with the kernel's root loaded: RDI = its area (cpu::PerCpu), whose third
    # word is the top of its stack.
    .section .text
    .balign 16
    .globl ptshare_cpu_entry
ptshare_cpu_entry:
    cli
    cld
    mov eax, 0x18
    mov ds, eax
    mov es, eax
    mov ss, eax
cpu_enter:
    xor eax, eax
    mov fs, eax
    mov gs, eax
    mov rsp, [rdi + 16]
    xor ebp, ebp
    call ptshare_cpu_main
    ud2

    .section .data
    .balign 4096
    .globl boot_pgd
boot_pgd:                           # the kernel's root
    .quad boot_pud_linear - VIRT + 0x23     # identity, cleared once the kernel runs high
    .fill LINEAR_SLOT - 1, 8, 0
    .quad boot_pud_linear - VIRT + 0x23
    .fill 511 - LINEAR_SLOT - 1, 8, 0
    .quad boot_pud_kernel - VIRT + 0x23
    .globl boot_pud_linear
boot_pud_linear:                    # linear map; from 1 GiB on filled by boot.rs
    .quad boot_pmd - VIRT + 0x23
    .fill 511, 8, 0
boot_pud_kernel:
    .fill 510, 8, 0
    .quad boot_pmd - VIRT + 0x23
    .quad boot_pmd_lapic - VIRT + 0x23
boot_pmd:                           # the first GiB in 2 MiB leaves: P W A D PS G
    .set n, 0
    .rept 512
    .quad n * 0x200000 + 0x1e3
    .set n, n + 1
    .endr
ap_pgd:                             # the root of a CPU on its way from real mode: the first GiB, and the kernel
    .quad ap_pud - VIRT + 0x23
    .fill 510, 8, 0
    .quad boot_pud_kernel - VIRT + 0x23
ap_pud:
    .quad boot_pmd - VIRT + 0x23
    .fill 511, 8, 0
boot_pmd_lapic:                     # 0xfffffffffee00000: the local APIC, uncached, no execute
    .fill 503, 8, 0
    .quad 0x80000000fee000fb
    .fill 8, 8, 0

    .balign 16
boot_gdt:
    .quad 0
    .quad 0x00cf9b000000ffff        # 0x08: 32-bit kernel code
    .quad 0x00af9b000000ffff        # 0x10: 64-bit kernel code
    .quad 0x00cf93000000ffff        # 0x18: kernel data
boot_gdt_ptr:
    .word 31
    .long boot_gdt - VIRT

    .section .bss
    .balign 4096
    .globl ptshare_boot_stack
ptshare_boot_stack:
    .skip 65536
    .globl ptshare_boot_stack_top
ptshare_boot_stack_top:
