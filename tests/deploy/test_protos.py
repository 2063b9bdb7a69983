"""buf on proto/: names and comments, and that a client of the last release can still talk to us."""

import os
import shutil

import pytest
from tool import ROOT, check_tool, run_tool

RELEASED = os.path.join(ROOT, "proto/released.txtpb")
INFERENCE = "m1/v1/inference.proto"


def test_protos_are_linted():
    check_tool("buf", "lint", "proto")


def test_no_change_breaks_clients_of_the_last_release():
    check_tool("buf", "breaking", "proto", "--against", RELEASED)


@pytest.fixture(name="changed")
def _changed(tmp_path):
    """Changes one line of a copy and says what buf says of it."""
    def change(path: str, old: str, new: str, *command: str) -> tuple[int, str]:
        copy = tmp_path / "proto"
        shutil.copytree(os.path.join(ROOT, "proto"), copy)
        text = (copy / path).read_text()
        assert text.count(old) == 1, f"{path}: {text.count(old)} times {old!r}"
        (copy / path).write_text(text.replace(old, new))
        return run_tool("buf", *command, cwd=str(copy))
    return change


BREAKING = ("breaking", ".", "--against", RELEASED)


@pytest.mark.parametrize("old, new, said", [
    ("optional uint64 seed = ", "optional int64 seed = ", "changed type"),
    ("FINISH_REASON_LENGTH = 2", "FINISH_REASON_LENGTH = 22", "FinishReason"),
    ("rpc Detokenize(", "rpc Undo(", "Detokenize"),
])
def test_a_breaking_change_is_refused(changed, old, new, said):
    code, text = changed(INFERENCE, old, new, *BREAKING)
    assert code == 100 and said in text, (code, text)


def test_an_addition_is_not_breaking(changed):
    code, text = changed(INFERENCE, "message GenerateRequest {\n",
                         "message GenerateRequest {\n  // A new field.\n  optional int32 added = 999;\n", *BREAKING)
    assert code == 0, text


def test_an_element_without_comment_is_refused(changed):
    code, text = changed(INFERENCE, "message GenerateRequest {\n",
                         "message GenerateRequest {\n  optional int32 added = 999;\n\n", "lint", ".")
    assert code == 100 and "added" in text, (code, text)
