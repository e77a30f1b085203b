"""What is counted of an assembled kernel; the tools themselves are NVIDIA's."""

from dev import assemble_ptx

# As ptxas and nvdisasm write them.
SAID = """ptxas info    : Compiling entry function 'kernel' for 'sm_90'
    0 bytes stack frame, 12 bytes spill stores, 8 bytes spill loads
ptxas info    : Used 126 registers, used 1 barriers, 16384 bytes smem
"""
ASSEMBLY = """\
.text.kernel:
        /*0000*/                   LDC R1, c[0x0][0x28] ;
.L_x_0:
        /*0010*/                   LDG.E.U16 R3, desc[UR4][R2.64] ;
        /*0020*/               @P0 BRA `(.L_x_0) ;
.L_x_1:
        /*0030*/                   FFMA R4, R5, R6, R4 ;
        /*0040*/                   FFMA R7, R5, R8, R7 ;
        /*0050*/              @!P2 LDL R9, [R1] ;
        /*0060*/               @P1 BRA `(.L_x_3) ;
        /*0070*/                   BRA `(.L_x_1) ;
.L_x_3:
        /*0080*/                   EXIT ;
.L_x_2:
        /*0090*/                   BRA `(.L_x_2);
"""


def test_registers_and_the_instructions_of_the_loop_that_multiplies():
    assert assemble_ptx.counts(SAID, ASSEMBLY) == {
        "registers": 126,
        "spilled bytes": 12,
        "shared bytes": 16384,
        "instructions": 10,
        "in the loop": 5,
        "multiply-adds": 2,
        "spills in the loop": 1,
    }


def test_a_kernel_without_such_a_loop_or_shared_memory():
    row = assemble_ptx.counts(
        SAID.replace(", 16384 bytes smem", ""), ASSEMBLY.partition(".L_x_1")[0]
    )
    assert row["shared bytes"] == row["in the loop"] == row["multiply-adds"] == 0


def test_every_kernel_has_sizes_for_all_names_in_its_text():
    found = list(assemble_ptx.entries())
    assert len(found) == 9 * 4 + 3 * 10
    for file, entry, sizes in found:
        assert "SIZE_" not in assemble_ptx.ptx.text(file, entry, **sizes)
