"""Fixed prompts of the sheets, chosen before the first picture was drawn."""

PROMPTS = (
    "noto style: grinning face",
    "fluent flat style: smiling face with sunglasses",
    "twemoji style: crying face",
    "blob style: angry face",
    "noto style: cat face",
    "happy cat with sunglasses",
    "fluent flat style: dog",
    "twemoji style: penguin",
    "noto style: red heart",
    "fluent flat style: purple cat",
    "blue heart",
    "twemoji style: pizza",
    "noto style: hamburger",
    "fluent flat style: strawberry",
    "twemoji style: rocket",
    "noto style: sports car",
    "fluent flat style: house",
    "blob style: ghost",
    "twemoji style: unicorn",
    "noto style: rainbow",
    "fluent flat style: guitar",
    "green frog with a crown",
    "sleepy robot",
    "noto style: woman scientist",
)
SEEDS = (0, 1, 2)
