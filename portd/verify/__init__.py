"""`portd verify`: are two live servers equal?"""
