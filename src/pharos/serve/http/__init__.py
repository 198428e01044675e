"""The engine over HTTP, in the format of the OpenAI API.

`app.create_app` makes the application; `pharos serve` runs it. Needs the extra `serve`.
"""
