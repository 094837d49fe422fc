"""Outcomes: rows, counts, and rejections that cross processes."""

import pickle

from emoji_ldm.outcomes import FAILURES, Outcome, Rejected, count_outcomes, outcome_row, outcome_table


def test_a_rejection_survives_pickling_with_all_its_fields():
    error = pickle.loads(pickle.dumps(Rejected(Outcome.DEAD, "HTTP 404", 404)))
    assert (error.outcome, error.reason, error.http_status, str(error)) == (Outcome.DEAD, "HTTP 404", 404, "HTTP 404")


def test_a_row_has_nulls_for_what_is_unknown():
    row = outcome_row("u", "image", Outcome.KEPT, "PNG", image_id="i")
    assert (row["outcome"], row["image_id"], row["etag"], row["http_status"]) == ("kept", "i", None, None)
    assert outcome_table([row]).num_rows == 1


def test_outcomes_are_counted_by_name():
    outcomes = [Outcome.KEPT, Outcome.DEAD, Outcome.KEPT]
    table = outcome_table([outcome_row(str(n), "image", outcome, "") for n, outcome in enumerate(outcomes)])
    assert list(count_outcomes(table).items()) == [("dead", 1), ("kept", 2)]
    assert count_outcomes(outcome_table([])) == {}


def test_the_values_of_outcomes_are_stored_and_therefore_fixed():
    assert {outcome.value for outcome in Outcome} == {
        "listed", "empty", "failed", "kept", "duplicate-of", "refused-by-robots", "blocked-address", "dead",
        "http-error", "timed-out", "unreachable", "too-large", "too-small", "not-an-image", "blank", "unchanged",
    }  # fmt: skip
    assert sorted(FAILURES) == ["dead", "http-error", "timed-out", "unreachable"]
