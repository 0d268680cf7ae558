"""The real parts that tests run on; each module starts and ends its own servers."""

pytest_plugins = [
    "tests.parts.figures",
    "tests.parts.redis",
    "tests.parts.postgres",
    "tests.parts.scripted",
    "tests.parts.hub",
    "tests.parts.namespace",
    "tests.parts.mail",
    "tests.parts.provider",
]
