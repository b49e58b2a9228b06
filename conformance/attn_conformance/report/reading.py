def read(path):
    import json

    return json.loads(path.read_text())
