"""Which of two slots the firmware boots: one file for each bootloader, all behind `contract.Boot`.

Owns the words in which a bootloader is told what to boot. Writes no slot and judges no release.
"""
