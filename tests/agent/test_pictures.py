"""What a model is shown of images: of which kind, how many, and what the others become."""

import base64
from typing import Any

import pytest

from atrio_agent.pictures import MAX_IMAGE_CHARS, MAX_IMAGES, MAX_IMAGES_CHARS, shown
from atrio_protocol.content import ContentBlock, ImageBlock, ResourceBlock, ResourceContents, ResourceLink, TextBlock
from atrio_protocol.parts import Part, ToolResultPart
from atrio_protocol.things import Message

PNG = b"\x89PNG\r\n\x1a\n" + bytes(16)
NO_ROOM = "a request holds no more images, and there are newer ones"


def image(data: bytes = PNG, mime_type: str = "image/png", *, chars: int = 0) -> ImageBlock:
    """An image of this many characters of base64, or of as many as the data takes."""
    return ImageBlock(mime_type=mime_type, data=base64.b64encode(data).decode().ljust(chars, "A"))


def said(*parts: Part, message_id: str = "m", **more: Any) -> Message:
    fields: dict[str, Any] = {"session_id": "s", "order": 1, "role": "user", "summary": False} | more
    return Message(message_id=message_id, parts=parts, created_at="", updated_at="", **fields)


def words_of(block: ContentBlock, why: str = "") -> str:
    (only,) = shown([said(block)], why=why).messages[0].parts
    assert isinstance(only, TextBlock)
    return only.text


def test_what_holds_no_image_is_the_same_as_before() -> None:
    link = ResourceLink(uri="file:///a", name="a")
    message = said(TextBlock(text="hi"), link, ResourceBlock(resource=ResourceContents(uri="file:///b", text="b")))

    seen = shown([message], why="none today")

    assert seen.messages == (message,)
    assert seen.messages[0] is message
    assert (seen.named, seen.images) == ({}, 0)


@pytest.mark.parametrize(
    ("data", "mime_type"),
    [
        (PNG, "image/png"),
        (b"\xff\xd8\xff\xe0" + bytes(20), "image/jpeg"),
        (b"GIF89a" + bytes(20), "image/gif"),
        (b"RIFF\x24\0\0\0WEBPVP8 " + bytes(20), "image/webp"),
    ],
)
def test_an_image_is_shown_as_what_its_bytes_say_also_out_of_a_resource(data: bytes, mime_type: str) -> None:
    right, wrong = image(data, mime_type), image(data, "image/tiff")
    blob = ResourceBlock(resource=ResourceContents(uri="file:///i", blob=str(right.data)))

    seen = shown([said(right, wrong, blob)])

    assert seen.messages[0].parts == (right, right, right)
    assert seen.images == 3


@pytest.mark.parametrize(
    ("block", "words"),
    [
        (image(b"BM" + bytes(2_046), "image/bmp"), "[image image/bmp, 2 KB: it is no PNG, JPEG, GIF or WebP]"),
        (ImageBlock(mime_type="image/png", data="!!!!"), "[image image/png, 3 bytes: it is no PNG, JPEG, GIF or WebP]"),
        (ImageBlock(mime_type="image/png", bytes=9), "[image image/png, 9 bytes: its data is not here]"),
        (image(chars=MAX_IMAGE_CHARS + 4), "[image image/png, 3 MB: it is over 3,840 KB]"),
        (
            ResourceBlock(resource=ResourceContents(uri="file:///a.pdf", mime_type="application/pdf", blob="JVBE" * 4)),
            "[resource file:///a.pdf application/pdf, 12 bytes: binary data is not passed on]",
        ),
    ],
)
def test_what_no_model_can_be_given_is_named(block: ContentBlock, words: str) -> None:
    assert words_of(block) == words


def test_for_a_model_without_images_each_is_named_with_the_reason() -> None:
    blob = ResourceBlock(resource=ResourceContents(uri="file:///i", blob=str(image().data)))

    assert words_of(image(), "it is dark") == "[image image/png, 24 bytes: it is dark]"
    assert words_of(blob, "it is dark") == "[resource file:///i 24 bytes: it is dark]"


def test_the_newest_images_are_shown_as_many_as_one_request_may_hold() -> None:
    messages = [said(image(), TextBlock(text=str(at)), image(), message_id=f"m{at}") for at in range(MAX_IMAGES)]

    seen = shown(messages)

    half = MAX_IMAGES // 2
    kinds = [[type(part) for part in message.parts] for message in seen.messages]
    assert kinds == [[TextBlock] * 3] * half + [[ImageBlock, TextBlock, ImageBlock]] * half
    assert seen.images == MAX_IMAGES
    assert seen.named == {f"m{at}": [f"[image image/png, 24 bytes: {NO_ROOM}]"] * 2 for at in range(half)}


def test_all_images_together_stay_under_a_size_and_a_small_older_one_still_fits() -> None:
    large, almost = image(chars=MAX_IMAGE_CHARS), image(chars=MAX_IMAGE_CHARS - 1_000)
    fits = MAX_IMAGES_CHARS // MAX_IMAGE_CHARS

    seen = shown([said(image()), said(large), *[said(large)] * (fits - 1), said(almost)])

    assert [type(message.parts[0]) for message in seen.messages] == [ImageBlock, TextBlock, *[ImageBlock] * fits]


def test_images_of_tool_results_count_too_and_the_result_keeps_the_rest() -> None:
    result = ToolResultPart(
        tool_call_id="t", name="read", content=(TextBlock(text="a picture"), image()), is_error=False, exit_code=3
    )

    seen = shown([said(result, role="tool")], why="it is dark")

    (part,) = seen.messages[0].parts
    assert isinstance(part, ToolResultPart)
    assert part.content == (TextBlock(text="a picture"), TextBlock(text="[image image/png, 24 bytes: it is dark]"))
    assert (part.tool_call_id, part.exit_code) == ("t", 3)
    assert shown([said(result, role="tool")]).messages[0].parts == (result,)
