"""What is written about AssemblyAI's operations, product by product."""

from __future__ import annotations

from keypool_asgi.reference.pages import Pages

from . import agents, clips, common, llm, prerecorded, speech, streaming, tokens, transcripts

__all__ = ["ASSEMBLYAI_PAGES"]

ASSEMBLYAI_PAGES = Pages(
    provider="AssemblyAI",
    title="AssemblyAI through a key pool",
    introduction=common.INTRODUCTION,
    tags=common.TAGS,
    by_operation={
        **prerecorded.PAGES,
        **streaming.PAGES,
        **llm.PAGES,
        **clips.PAGES,
        **tokens.PAGES,
        **speech.PAGES,
        **agents.PAGES,
    },
    in_path=common.IN_PATH,
    schemas={
        **transcripts.SCHEMAS,
        **tokens.SCHEMAS,
        **llm.SCHEMAS,
        **clips.SCHEMAS,
        **speech.SCHEMAS,
        **agents.SCHEMAS,
    },
    upstream_error=common.UPSTREAM_ERROR,
)
"""Every operation of the table that is not retired; those carry their own text."""
