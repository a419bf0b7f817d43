"""A small service of its own: notes of meetings, kept in memory. Nothing here knows of the pool."""

from __future__ import annotations

from itertools import count
from typing import Annotated

from fastapi import APIRouter, Depends, HTTPException, Request
from pydantic import BaseModel, Field

__all__ = ["Book", "Note", "NoteDraft", "router"]

router = APIRouter()


class NoteDraft(BaseModel):
    """What a caller sends."""

    title: Annotated[str, Field(min_length=1, max_length=200)]
    text: str = ""
    transcript_id: str | None = None


class Note(NoteDraft):
    """What is kept."""

    id: int


class Book:
    """The notes of one running service."""

    def __init__(self) -> None:
        self._notes: dict[int, Note] = {}
        self._ids = count(1)

    def add(self, draft: NoteDraft) -> Note:
        note = Note(id=next(self._ids), **draft.model_dump())
        self._notes[note.id] = note
        return note

    def all(self) -> list[Note]:
        return list(self._notes.values())

    def find(self, note_id: int) -> Note | None:
        return self._notes.get(note_id)


def _book(request: Request) -> Book:
    return request.app.state.book


TheBook = Annotated[Book, Depends(_book)]


@router.get("/")
async def index() -> dict[str, str]:
    return {"service": "meeting notes", "notes": "/notes"}


@router.get("/notes")
async def list_notes(book: TheBook) -> list[Note]:
    return book.all()


@router.post("/notes", status_code=201)
async def add_note(draft: NoteDraft, book: TheBook) -> Note:
    return book.add(draft)


@router.get("/notes/{note_id}")
async def get_note(note_id: int, book: TheBook) -> Note:
    note = book.find(note_id)
    if note is None:
        raise HTTPException(404, "There is no such note.")
    return note
