"""Emoji packs: from finished pictures to the files that a chat service, a web page or a font takes.

source_pictures  folder of PNGs, with prompts and provenance     matte_removal    halos, specks, pin holes
emoji_names      names by each target's rules                    upscaling        crisp edges for flat art
target_limits    all limits, with source and date                composition      trim, centre, outline
file_size        palette and quality steps                       colour_font      an OpenType font of bitmaps
pack_layout      the files of each target                        pack_rules       every file read back and checked
outline_tracing  pictures as outlines of single colours          layered_font     an OpenType font of outlines
pack_builder     the whole way, and what was changed or skipped
"""
