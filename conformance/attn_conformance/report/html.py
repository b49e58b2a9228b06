def run_page(results):
    return ""


def write_report(results, folder):
    return folder
