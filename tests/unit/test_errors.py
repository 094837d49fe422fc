"""The exception tree."""

import re

from emoji_ldm import errors


def test_the_drawing_shows_every_exception():
    classes = {name for name, value in vars(errors).items() if isinstance(value, type)}
    assert set(re.findall(r"\b[A-Z]\w*Error\b", errors.__doc__)) == classes


def test_a_wrong_configuration_has_an_exit_code_of_its_own():
    codes = {error.exit_code for error in (errors.StoreError, errors.ModelError, errors.JobError)}
    assert codes == {1} and errors.ConfigError.exit_code == 2
