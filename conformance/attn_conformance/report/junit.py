def junit(reports, *, strict=False):
    return ""
